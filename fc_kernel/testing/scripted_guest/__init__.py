"""A small stand-in for a guest: the agent's protocol and a Jupyter kernel in one process whose whole state can be saved.

The fake monitor runs it when asked (``FakeVmm(plan, guest="scripted")`` or ``FC_KERNEL_FAKE_GUEST=scripted``). It boots in a
tenth of a second, can be snapshotted, loaded and forked, and goes wrong in whichever way a test wants (:mod:`.faults`).
"""
