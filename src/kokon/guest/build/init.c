/*
 * The first process of the guest: opens the verified root file system and hands over to the agent.
 *
 * It is built by tcc without any C library, so that the measured initrd depends on packages only. What the host may
 * influence is the kernel command line, which is measured, and the root disk, which dm-verity checks block by block
 * against the root digest on that command line. Any surprise ends in one line on the console and power off.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

/* Linux x86-64 system call numbers and constants (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/linux). */
enum {
    SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_ioctl = 16, SYS_nanosleep = 35, SYS_execve = 59,
    SYS_chdir = 80, SYS_mkdir = 83, SYS_unlink = 87, SYS_chroot = 161, SYS_mount = 165, SYS_reboot = 169,
    SYS_finit_module = 313
};
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_NOCTTY = 0400, O_CLOEXEC = 02000000 };
enum { MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MS_NOEXEC = 8, MS_MOVE = 8192 };
enum { ENOENT = 2, EEXIST = 17, EBUSY = 16 };
enum { TCSBRK = 0x5409 };
enum { REBOOT_MAGIC_1 = 0xfee1dead, REBOOT_MAGIC_2 = 672274793, REBOOT_POWER_OFF = 0x4321fedc };

/* Device mapper ioctls (include/uapi/linux/dm-ioctl.h): _IOWR(0xfd, n, struct dm_ioctl), struct size 312. */
enum { DM_DEV_CREATE = 0xc138fd03u, DM_DEV_SUSPEND = 0xc138fd06u, DM_TABLE_LOAD = 0xc138fd09u };
enum { DM_READONLY = 1, DM_SECTORS_PER_BLOCK = 8 };

struct dm_ioctl {
    u32 version[3], data_size, data_start, target_count, open_count_unused, flags, event_nr, padding;
    u64 dev;
    char name[128], uuid[129], data[7];
};
struct dm_target_spec {
    u64 sector_start, length;
    u32 status, next;
    char target_type[16];
};
struct verity_request {
    struct dm_ioctl head;
    struct dm_target_spec target;
    char parameters[512];
};

long sys(long number, long a, long b, long c, long d, long e);

__asm__(
    ".globl _start\n"
    "_start:\n"
    "xorq %rbp, %rbp\n"
    "andq $-16, %rsp\n"
    "call begin\n"
    ".globl sys\n"
    "sys:\n"
    "movq %rdi, %rax\n"
    "movq %rsi, %rdi\n"
    "movq %rdx, %rsi\n"
    "movq %rcx, %rdx\n"
    "movq %r8, %r10\n"
    "movq %r9, %r8\n"
    "syscall\n"
    "ret\n"
);

void *memset(void *target, int value, u64 size) {
    u8 *byte = target;
    while (size--) *byte++ = value;
    return target;
}

static u64 length(const char *text) {
    u64 size = 0;
    while (text[size]) size++;
    return size;
}

static int console = 2;

static void say(const char *text) { sys(SYS_write, console, (long)text, length(text), 0, 0); }

static void power_off(void) {
    sys(SYS_ioctl, console, TCSBRK, 1, 0, 0); /* wait until the serial line has sent everything */
    sys(SYS_reboot, REBOOT_MAGIC_1, REBOOT_MAGIC_2, REBOOT_POWER_OFF, 0, 0);
    for (;;) sys(SYS_nanosleep, (long)&(u64[2]){3600, 0}, 0, 0, 0, 0);
}

static void fail(const char *what, const char *subject, long error) {
    char digits[24];
    char *digit = digits + sizeof digits - 1;
    *digit = 0;
    if (error < 0) error = -error;
    do *--digit = '0' + error % 10; while (error /= 10);
    say("kokon: init: ");
    say(what);
    say(subject);
    say(", error ");
    say(digit);
    say("\n");
    power_off();
}

static long must(long result, const char *what, const char *subject) {
    if (result < 0) fail(what, subject, result);
    return result;
}

static void mount(const char *source, const char *target, const char *kind, long flags) {
    must(sys(SYS_mount, (long)source, (long)target, (long)kind, flags, 0), "cannot mount ", target);
}

/* The whole of a small file as a text; a file that fills the buffer is refused. */
static void read_text(const char *path, char *text, long size) {
    long file = must(sys(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0), "cannot open ", path);
    long used = 0, got;
    while ((got = must(sys(SYS_read, file, (long)(text + used), size - used, 0, 0), "cannot read ", path)) > 0) {
        used += got;
        if (used == size) fail("too large: ", path, 0);
    }
    text[used] = 0;
    sys(SYS_close, file, 0, 0, 0, 0);
}

static char command_line[4096];
static const char *root_digest, *salt;
static u64 blocks;
static int probe;

static int space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

/* What follows `key` in `word`, or null if the word does not begin with it. */
static char *after(char *word, const char *key) {
    while (*key) if (*word++ != *key++) return 0;
    return word;
}

static char *hex_256(char *text, const char *key, const char *earlier) {
    u64 i;
    if (earlier) fail("given twice on the command line: ", key, 0);
    for (i = 0; i < 64; i++)
        if (!(text[i] >= '0' && text[i] <= '9') && !(text[i] >= 'a' && text[i] <= 'f'))
            fail("not 64 hexadecimal digits: ", key, 0);
    if (text[64]) fail("not 64 hexadecimal digits: ", key, 0);
    return text;
}

/* A number of 4096-byte blocks from 1 to 2^28 (1 TiB). */
static u64 block_count(char *text) {
    u64 value = 0, i;
    if (blocks) fail("given twice on the command line: ", "verity.blocks", 0);
    for (i = 0; text[i]; i++) {
        if (text[i] < '0' || text[i] > '9' || i > 8) fail("not a number of blocks: ", "verity.blocks", 0);
        value = value * 10 + (text[i] - '0');
    }
    if (value < 1 || value > 1 << 28) fail("out of range: ", "verity.blocks", 0);
    return value;
}

static void read_command_line(void) {
    char *word = command_line, *value;
    read_text("/proc/cmdline", command_line, sizeof command_line - 1);
    while (*word) {
        char *end = word;
        int last;
        while (*end && !space(*end)) end++;
        last = !*end;
        *end = 0;
        if ((value = after(word, "verity.root="))) root_digest = hex_256(value, "verity.root", root_digest);
        else if ((value = after(word, "verity.salt="))) salt = hex_256(value, "verity.salt", salt);
        else if ((value = after(word, "verity.blocks="))) blocks = block_count(value);
        else if ((value = after(word, "kokon.probe")) && !*value) probe = 1;
        if (last) return;
        word = end + 1;
    }
}

/* Load the modules named in /modules, one path a line, in that order, and free their memory in the initrd. */
static void load_modules(void) {
    static char list[4096];
    char *path = list;
    read_text("/modules", list, sizeof list - 1);
    while (*path) {
        char *end = path;
        long file, result;
        while (*end != '\n') if (!*end++) fail("malformed: ", "/modules", 0);
        *end = 0;
        file = must(sys(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0), "cannot open ", path);
        result = sys(SYS_finit_module, file, (long)"", 0, 0, 0);
        if (result != -EEXIST) must(result, "cannot load ", path);
        sys(SYS_close, file, 0, 0, 0, 0);
        sys(SYS_unlink, (long)path, 0, 0, 0, 0);
        path = end + 1;
    }
}

static void append(char **at, const char *text) {
    while (*text) *(*at)++ = *text++;
    **at = 0;
}

static void append_number(char **at, u64 value) {
    char digits[24];
    char *digit = digits + sizeof digits - 1;
    *digit = 0;
    do *--digit = '0' + value % 10; while (value /= 10);
    append(at, digit);
}

static struct verity_request request;

static void mapper(long control, u64 command, const char *what) {
    char *at = request.head.name;
    request.head.version[0] = 4;
    request.head.data_size = sizeof request;
    request.head.data_start = sizeof request.head;
    append(&at, "root");
    must(sys(SYS_ioctl, control, command, (long)&request, 0, 0), "device mapper: cannot ", what);
    memset(&request, 0, sizeof request);
}

/*
 * /dev/dm-0: the `blocks` first blocks of the root disk, checked against the hash tree that follows them
 * (Documentation/admin-guide/device-mapper/verity.rst). A block that does not fit stops the machine.
 */
static void open_verity(const char *disk) {
    long control = must(sys(SYS_open, (long)"/dev/mapper/control", O_RDWR | O_CLOEXEC, 0, 0, 0), "cannot open ", "device mapper");
    char *at;
    mapper(control, DM_DEV_CREATE, "create");
    request.head.flags = DM_READONLY;
    request.head.target_count = 1;
    request.target.length = blocks * DM_SECTORS_PER_BLOCK;
    at = request.target.target_type;
    append(&at, "verity");
    at = request.parameters;
    append(&at, "1 ");
    append(&at, disk);
    append(&at, " ");
    append(&at, disk);
    append(&at, " 4096 4096 ");
    append_number(&at, blocks);
    append(&at, " ");
    append_number(&at, blocks);
    append(&at, " sha256 ");
    append(&at, root_digest);
    append(&at, " ");
    append(&at, salt);
    append(&at, " 1 panic_on_corruption");
    mapper(control, DM_TABLE_LOAD, "load verity table");
    mapper(control, DM_DEV_SUSPEND, "resume");
    sys(SYS_close, control, 0, 0, 0, 0);
}

/* Wait until a device node is there: drivers may probe in the background. */
static void await(const char *path) {
    long tries, file = -1;
    for (tries = 0; tries < 2000; tries++) {
        file = sys(SYS_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
        if (file >= 0) break;
        sys(SYS_nanosleep, (long)&(u64[2]){0, 5000000}, 0, 0, 0, 0);
    }
    must(file, "no such device: ", path);
    sys(SYS_close, file, 0, 0, 0, 0);
}

static void enter_root(void) {
    mount("/dev/dm-0", "/root", "erofs", MS_RDONLY | MS_NODEV);
    mount("/dev", "/root/dev", 0, MS_MOVE);
    mount("/proc", "/root/proc", 0, MS_MOVE);
    must(sys(SYS_chdir, (long)"/root", 0, 0, 0, 0), "cannot enter ", "/root");
    mount(".", "/", 0, MS_MOVE);
    must(sys(SYS_chroot, (long)".", 0, 0, 0, 0), "cannot change root to ", "/root");
    must(sys(SYS_chdir, (long)"/", 0, 0, 0, 0), "cannot enter ", "/");
}

void begin(void) {
    static const char *arguments[] = {"/usr/bin/python3.11", "-I", "-S", "/usr/lib/kokon/agent", 0};
    static const char *environment[] = {"PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8", 0};
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC);
    read_command_line();
    if (probe) {
        say("kokon: probe ok\n");
        power_off();
    }
    if (!root_digest || !salt || !blocks) fail("missing on the command line: ", "verity.root, verity.salt or verity.blocks", 0);
    load_modules();
    await("/dev/vda");
    open_verity("/dev/vda");
    await("/dev/dm-0");
    enter_root();
    fail("cannot start ", arguments[0], sys(SYS_execve, (long)arguments[0], (long)arguments, (long)environment, 0, 0));
}
