"""One relay at a time for each pair, where several run on the same accounts.

The account itself keeps a register that all of them read; nobody can compare and swap in it. So:

1. *Each relay writes values of its own* (`board.py`): which channels it has claimed, its question to others, its
   answers to theirs, and how far it had read what it has left. With one value for all, who wrote late would
   restore or erase what others had said meanwhile.
2. *Each process, and each request of unknown end, begins a new turn* in another value; the latest turn of a relay
   counts. So a request that arrives minutes late changes nothing. Nothing is written in a turn before the half second
   that it is named after: a process has later turns than the one before it in its place, whatever it has seen of that.
3. *Each claim and question has a number* above all that its relay had read. The highest counts. So who takes a channel
   from a relay that is silent, or has crashed, need not write into that one's value, and it cannot come back with it.
4. *Who claims writes first and then reads* (`claimed.py`): a new claim is pending until its relay has read that
   nobody else has one. Of two, at least one sees the other, and does not begin. Whoever begins has said before
   that it is sure: nothing was mirrored with what is still pending, and the claim before it counts, too, until then.
5. *Only reading gives the right to mirror*, for 40 seconds, and not while an unanswered question is read. Who holds
   what others want is asked whether it lives (`question.py`); after 45 seconds without an answer it has lost its right
   by its own clock too, and is replaced. Who has claimed since the question was asked is asked anew.
6. *Who leaves a channel says so, and up to where it was read* (`leaving.py`): the last word on a channel always stands
   there. Whoever begins with one of which another store had the last word sends nothing that waits in its own: it may
   have read that when it had no right any more, whatever it knew then.

`agreement.py` decides what is claimed and when. `holders.py` tells the operator who holds what, and `handover.py` stops
and starts pairs. `register.py` is what is said.
"""
