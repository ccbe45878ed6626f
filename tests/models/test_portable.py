...                                                                      [100%]
============================= slowest 5 durations ==============================
90.49s setup    tests/models/test_families.py::test_another_family_is_refused
27.06s call     tests/models/test_families.py::test_another_family_is_refused
2.91s call     tests/models/test_families.py::test_the_same_family_with_other_weights_is_refused
0.34s call     tests/models/test_families.py::test_what_a_family_cannot_embed_is_refused
0.09s setup    tests/models/test_families.py::test_what_a_family_cannot_embed_is_refused
3 passed, 32 deselected in 130.13s (0:02:10)
