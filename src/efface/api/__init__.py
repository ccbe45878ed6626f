"""The verbs: one module and one public function each. `efface` exports the functions; the command line calls them."""
