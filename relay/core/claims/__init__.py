"""One relay at a time for each pair, where several run on the same accounts.

`register.py` is what they tell each other, `agreement.py` decides who mirrors what, with what `question.py` asks the
others, and `handover.py` stops and starts pairs.
"""
