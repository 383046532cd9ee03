/* Where the program begins on Android: hands the kernel's arguments to bionic, which calls main (bionic,
   libc/arch-common/bionic/crtbegin.c). */
#include <stddef.h>

struct structors {
    void (**preinit_array)(void);
    void (**init_array)(void);
    void (**fini_array)(void);
    size_t counts[3];
};

void __libc_init(void *arguments, void (*at_exit)(void), int (*start)(int, char **, char **), const struct structors *)
    __attribute__((noreturn));
int main(int, char **);

static int start_main(int count, char **arguments, char **environment) {
    (void)environment;
    return main(count, arguments);
}

__attribute__((used, noreturn)) static void begin(void *arguments) {
    static const struct structors none;
    __libc_init(arguments, NULL, start_main, &none);
}

#if defined(__aarch64__)
__asm__(".globl _start\n"
        ".type _start, %function\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    b begin\n");
#elif defined(__x86_64__)
__asm__(".globl _start\n"
        ".type _start, @function\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call begin\n"
        "    hlt\n");
#else
#error "Android is known here on x86_64 and aarch64 only"
#endif

/* The note by which tools, and bionic itself, know the API level that the program was built for. */
__asm__(".pushsection .note.android.ident, \"a\", %note\n"
        ".balign 4\n"
        ".4byte 8, 4, 1\n"
        ".asciz \"Android\"\n"
        ".4byte 24\n"
        ".popsection\n");
