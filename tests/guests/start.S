/* Where the monitor jumps to: 64-bit mode, the first GiB mapped, no stack, no interrupts. */
        .code64
        .globl  _start
_start: cli
        lea     stack_top(%rip), %rsp
        call    guest_main
1:      hlt
        jmp     1b

        .bss
        .balign 4096
        .skip   65536
stack_top:

        .section .note.GNU-stack, "", @progbits
