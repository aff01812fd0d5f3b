"""The KVM probe's guest: a few instructions in long mode that every ordinary Linux executes early.

It runs as a program in its own process, because an emulating KVM may hang, and prints one JSON object per stage.
The ioctl numbers and structures are those of ``linux/kvm.h`` on x86-64.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
import sys
import time
from ctypes import addressof, c_char

KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2 = 0xC008AE05, 0x4008AE90
KVM_CREATE_VCPU, KVM_SET_TSS_ADDR, KVM_SET_USER_MEMORY_REGION = 0xAE41, 0xAE47, 0x4020AE46
KVM_RUN, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0xAE80, 0x4090AE82, 0x8138AE83, 0x4138AE84
KVM_EXIT_HLT = 5
EXIT_NAMES = {8: "KVM_EXIT_SHUTDOWN", 9: "KVM_EXIT_FAIL_ENTRY", 17: "KVM_EXIT_INTERNAL_ERROR"}

MEMORY_BYTES = 2 << 20
PML4, PDPT, PD, CODE, DATA, STACK = 0x1000, 0x2000, 0x3000, 0x8000, 0x9000, 0xF000
SREGS_BYTES = 312
MAX_CPUID_ENTRIES = 256
#: Not mapped for the guest; an Intel host needs an address for its own task segment.
TSS_ADDRESS = 0x70000000

FPU_AND_SSE = (
    b"\xdb\xe3"  # fninit
    b"\x0f\x10\x04\x25" + struct.pack("<I", DATA) + b"\x0f\x11\x04\x25" + struct.pack("<I", DATA + 64)  # movups
)
CMPXCHG16B = b"\x48\x0f\xc7\x0c\x25" + struct.pack("<I", DATA + 16)
HLT = b"\xf4"


def counted_loop(instructions: int) -> bytes:
    """``mov ecx, n; 1: dec ecx; jnz 1b``: two instructions a round."""
    return b"\xb9" + struct.pack("<I", instructions // 2) + b"\xff\xc9\x75\xfc"


class ProbeVm:
    """A VM with one vCPU in long mode and 2 MiB of identity-mapped memory."""

    def __init__(self) -> None:
        self.kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        if fcntl.ioctl(self.kvm, KVM_GET_API_VERSION, 0) != 12:
            raise OSError("KVM's API version is not 12")
        self.vm = fcntl.ioctl(self.kvm, KVM_CREATE_VM, 0)
        fcntl.ioctl(self.vm, KVM_SET_TSS_ADDR, TSS_ADDRESS)
        self.memory = mmap.mmap(-1, MEMORY_BYTES)
        start = addressof(c_char.from_buffer(self.memory))
        fcntl.ioctl(self.vm, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, MEMORY_BYTES, start))
        for table, entry in ((PML4, PDPT | 3), (PDPT, PD | 3), (PD, 0x83)):
            self.memory[table : table + 8] = struct.pack("<Q", entry)
        self.vcpu = fcntl.ioctl(self.vm, KVM_CREATE_VCPU, 0)
        cpuid = bytearray(8 + 40 * MAX_CPUID_ENTRIES)
        struct.pack_into("<I", cpuid, 0, MAX_CPUID_ENTRIES)
        fcntl.ioctl(self.kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
        fcntl.ioctl(self.vcpu, KVM_SET_CPUID2, cpuid)
        self.run_area = mmap.mmap(self.vcpu, fcntl.ioctl(self.kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        self._long_mode()

    def _long_mode(self) -> None:
        sregs = bytearray(SREGS_BYTES)
        fcntl.ioctl(self.vcpu, KVM_GET_SREGS, sregs)
        code = struct.pack("<QIH10Bxx", 0, 0xFFFFFFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)[:24]
        data = struct.pack("<QIH10Bxx", 0, 0xFFFFFFFF, 16, 3, 1, 0, 1, 1, 0, 1, 0, 0, 0)[:24]
        for index in range(6):
            sregs[24 * index : 24 * index + 24] = code if index == 0 else data
        cr0, cr4, efer = 0x80000033, 0x620, 0x500  # PG NE ET MP PE; PAE OSFXSR OSXMMEXCPT; LME LMA
        control = 8 * 24 + 2 * 16
        struct.pack_into("<QQQQQQ", sregs, control, cr0, 0, PML4, cr4, 0, efer)
        fcntl.ioctl(self.vcpu, KVM_SET_SREGS, bytes(sregs))

    def run(self, code: bytes) -> int:
        """Execute ``code`` up to its ``hlt``; returns KVM's exit reason."""
        self.memory[CODE : CODE + len(code) + 1] = code + HLT
        registers = [0] * 18
        registers[6], registers[16], registers[17] = STACK, CODE, 2
        fcntl.ioctl(self.vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))
        fcntl.ioctl(self.vcpu, KVM_RUN, 0)
        return int(struct.unpack_from("<I", self.run_area, 8)[0])


def main(instructions: int) -> None:
    """Run all stages; the first that fails is the last that is printed."""

    def say(stage: str, **facts: object) -> None:
        sys.stdout.write(json.dumps({"stage": stage, **facts}) + "\n")
        sys.stdout.flush()

    try:
        vm = ProbeVm()
    except OSError as error:
        say("open", ok=False, detail=str(error))
        return

    def halts(stage: str, code: bytes) -> bool:
        """Run; anything but the closing ``hlt`` is reported and ends the probe."""
        try:
            reason = vm.run(code)
        except OSError as error:
            say(stage, ok=False, detail=str(error))
            return False
        if reason != KVM_EXIT_HLT:
            say(stage, ok=False, detail=EXIT_NAMES.get(reason, f"exit reason {reason}"))
        return reason == KVM_EXIT_HLT

    for stage, code in (("fpu", FPU_AND_SSE), ("cmpxchg16b", CMPXCHG16B)):
        if not halts(stage, code):
            return
        say(stage, ok=True)
    # A short loop first: where every instruction is emulated, the long one would take half a minute.
    for count in (instructions // 50, instructions):
        begun = time.perf_counter()
        # A guest that stops at once would seem the fastest of all.
        if not halts("loop", counted_loop(count)):
            return
        rate = count / (time.perf_counter() - begun)
        say("loop", ok=True, instructions=count, instructions_per_s=rate)
        if rate < instructions / 5:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
