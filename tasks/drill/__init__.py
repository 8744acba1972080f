"""The drill: every rung of every chain is called on a sample, in shadow, before a night calls it in earnest.

Read `exercise` for what is done to one stage, `verdict` for what is made of it, `shadow` for why nothing of it touches
an item, a breaker or the queue.
"""
