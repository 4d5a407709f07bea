"""The backend on PyTorch, transformers and PEFT: CUDA devices, and the CPU where there is none."""
