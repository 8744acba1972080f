"""The drill: call every rung of every chain on a sample, in shadow, before a run depends on it.

`exercise` calls the rungs of one stage, `judge` turns the calls into the verdicts of `verdict`, and `shadow` isolates
the drill from the store's items, breakers and queue. `questions` are the items on which rungs disagree, which people
answer by `labelling`; `relative_accuracy` measures by the answers, and `proposals` are the penalties that follow.
"""
