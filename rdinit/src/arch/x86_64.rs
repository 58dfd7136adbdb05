//! Numbers of x86-64's system calls (`arch/x86/entry/syscalls/syscall_64.tbl` of the Linux source), by the names of the
//! crate `linux-raw-sys`, with which a test compares them: build.rs compiles rdinit without cargo, and so without crates.

macro_rules! numbers {
    ($($name:ident = $number:literal,)*) => {
        $(pub(crate) const $name: usize = $number;)*

        #[test]
        fn the_numbers_are_those_of_linux_raw_sys() {
            $(assert_eq!($name, linux_raw_sys::general::$name as usize, stringify!($name));)*
        }
    };
}

numbers! {
    __NR_read = 0,
    __NR_write = 1,
    __NR_open = 2,
    __NR_close = 3,
    __NR_stat = 4,
    __NR_fstat = 5,
    __NR_lstat = 6,
    __NR_poll = 7,
    __NR_mmap = 9,
    __NR_munmap = 11,
    __NR_rt_sigaction = 13,
    __NR_rt_sigprocmask = 14,
    __NR_ioctl = 16,
    __NR_dup2 = 33,
    __NR_nanosleep = 35,
    __NR_socket = 41,
    __NR_connect = 42,
    __NR_sendto = 44,
    __NR_shutdown = 48,
    __NR_bind = 49,
    __NR_listen = 50,
    __NR_setsockopt = 54,
    __NR_getsockopt = 55,
    __NR_clone = 56,
    __NR_execve = 59,
    __NR_wait4 = 61,
    __NR_kill = 62,
    __NR_fcntl = 72,
    __NR_chdir = 80,
    __NR_fchdir = 81,
    __NR_rename = 82,
    __NR_mkdir = 83,
    __NR_rmdir = 84,
    __NR_unlink = 87,
    __NR_symlink = 88,
    __NR_chmod = 90,
    __NR_fchmod = 91,
    __NR_chown = 92,
    __NR_fchown = 93,
    __NR_umask = 95,
    __NR_sysinfo = 99,
    __NR_syslog = 103,
    __NR_setsid = 112,
    __NR_setgroups = 116,
    __NR_setresuid = 117,
    __NR_setresgid = 119,
    __NR_capset = 126,
    __NR_mknod = 133,
    __NR_statfs = 137,
    __NR_prctl = 157,
    __NR_setrlimit = 160,
    __NR_chroot = 161,
    __NR_mount = 165,
    __NR_umount2 = 166,
    __NR_swapon = 167,
    __NR_init_module = 175,
    __NR_reboot = 169,
    __NR_sethostname = 170,
    __NR_lsetxattr = 189,
    __NR_getdents64 = 217,
    __NR_clock_gettime = 228,
    __NR_exit_group = 231,
    __NR_openat = 257,
    __NR_newfstatat = 262,
    __NR_readlinkat = 267,
    __NR_accept4 = 288,
    __NR_signalfd4 = 289,
    __NR_pipe2 = 293,
}
