"""What runs in the kernel's process in the guest; there this package is called ``fc_kernel``, and is all there is of it."""
