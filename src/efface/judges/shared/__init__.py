"""Code that several judges use.

Base classes: `ClassifierJudge` (a closed world of classes), `ThresholdJudge` (a few questions with a threshold each)
and `ReferenceJudgeBase` (copies of pictures). Functions: the syntax of questions, and opening weights.
"""
