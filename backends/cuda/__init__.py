"""PyTorch and PEFT: training, generation, chat, plan and doctor, on CUDA or on the CPU."""

import os

# Threads that spin while they wait cost nothing on an idle machine and nearly everything on a shared one, where they
# hold the core that the thread they wait for needs. This has to be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Large tensors come in pages of 2 MB where the kernel grants them: the first use of a fresh page costs more than what
# is computed on it. torch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
