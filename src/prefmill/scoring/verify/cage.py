"""The cage: what a child process gives up before it runs code that nobody has read.

Runs inside of that child, alone (`python -S cage.py`), so it is the standard library only, and
imports nothing of this package. Each lock is the kernel's own and needs no privileges:

    limits       memory, processor time, size of a file, open files, no core dump
    namespaces   an empty network, and a home that is a small disk in memory (where allowed)
    Landlock     reads the standard library, writes its home, sees the content of no other file
    seccomp      no sockets, no further processes or programs, signals to nobody else, no mounts

`lock` says which of them did not hold; who called decides what that means.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig

_LIBC = ctypes.CDLL(None, use_errno=True)
MIB = 1 << 20

# Namespaces

_NEW_USER, _NEW_MOUNTS, _NEW_NET, _NEW_IPC = 0x10000000, 0x00020000, 0x40000000, 0x08000000
_MS_PRIVATE_ALL = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
_MS_PLAIN = 0x2 | 0x4  # MS_NOSUID | MS_NODEV


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _written(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def apart(home: str, disk_mib: int) -> None:
    """An empty network, no shared memory of others, and `home` as a disk of so many MiB."""
    uid, gid = os.getuid(), os.getgid()
    flags = _NEW_USER | _NEW_MOUNTS | _NEW_NET | _NEW_IPC
    _checked(_LIBC.unshare(flags), "unshare")
    _written("/proc/self/setgroups", "deny")
    _written("/proc/self/uid_map", f"{uid} {uid} 1")
    _written("/proc/self/gid_map", f"{gid} {gid} 1")
    _checked(_LIBC.mount(None, b"/", None, _MS_PRIVATE_ALL, None), "mount")
    options = f"size={disk_mib}m,nr_inodes=4096,mode=700".encode()
    _checked(_LIBC.mount(b"tmpfs", home.encode(), b"tmpfs", _MS_PLAIN, options), "mount")


# Capabilities and limits

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 38, 22, 24


def _prctl(option: int, *values: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return int(_LIBC.prctl(option, *padded))


def mortal() -> None:
    """The process ends when its parent does."""
    _checked(_prctl(_PR_SET_PDEATHSIG, 9), "parent's death")


def powerless() -> None:
    """No capabilities, and no way to gain any."""
    _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _checked(_LIBC.capset(header, none), "capset")


def limited(memory_mib: int, seconds: float, file_mib: int) -> None:
    """Bounds of this process; none can be raised again."""
    processor = max(1, int(seconds) + 1)
    bounds = {
        resource.RLIMIT_AS: memory_mib * MIB,
        resource.RLIMIT_CPU: processor,
        resource.RLIMIT_FSIZE: file_mib * MIB,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for kind, bound in bounds.items():
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            bound = min(bound, most)
        resource.setrlimit(kind, (bound, bound))


# Landlock: https://docs.kernel.org/userspace-api/landlock.html

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
#: the rights that each version of Landlock knows
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def _syscall(number: int, *values: object) -> int:
    return int(_LIBC.syscall(ctypes.c_long(number), *values))


def readable(more: list[str]) -> list[str]:
    """What a program needs to read: Python's library, the system's libraries, and `more`."""
    names = ("stdlib", "platstdlib")
    paths = [sysconfig.get_path(name) for name in names]
    paths += [sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("DESTSHARED")]
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", *more]
    paths += ["/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom"]
    return [path for path in dict.fromkeys(paths) if path and os.path.exists(path)]


def walled(home: str, more: list[str]) -> None:
    """Files: `readable` ones to read, `home` to write, and no others."""
    version = _checked(_syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1), "Landlock")
    rights = _RIGHTS[max(each for each in _RIGHTS if each <= version)]
    ruleset = ctypes.create_string_buffer(struct.pack("=Q", rights))
    rules = _checked(_syscall(_CREATE_RULESET, ruleset, ctypes.c_size_t(8), 0), "Landlock")
    writable = {home: rights, "/dev/null": _READ_FILE | _WRITE_FILE}
    allowed = dict.fromkeys(readable(more), _READ) | writable
    for path, access in allowed.items():
        if not os.path.isdir(path):
            access &= _OF_FILES
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access & rights, place), 12)
        _checked(_syscall(_ADD_RULE, rules, 1, rule, 0), f"Landlock of {path}")
        os.close(place)
    _checked(_syscall(_RESTRICT_SELF, rules, 0), "Landlock")
    os.close(rules)


# seccomp: a filter over system calls

_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD, _AF_UNIX = 0x10000, 1
#: arch of the audit, and the numbers of system calls: refused, and looked at
_MACHINES = {
    "x86_64": 0xC000003E,
    "aarch64": 0xC00000B7,
}
#: (x86_64, aarch64); None: it has no such call
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "setrlimit": (160, 164),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "open_by_handle_at": (304, 265),
    "vhangup": (153, 58),
}
_LOOKED_AT = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "socketpair": (53, 199),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
}
#: system calls beyond this are newer than this list
_NEWEST = 462


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _equal(value: int, yes: int, no: int) -> bytes:
    return struct.pack("=HBBI", 0x15, yes, no, value)


def _above(value: int, yes: int, no: int) -> bytes:
    return struct.pack("=HBBI", 0x25, yes, no, value)


def _has_bits(value: int, yes: int, no: int) -> bytes:
    return struct.pack("=HBBI", 0x45, yes, no, value)


def _give(value: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, value)


def _argument(place: int, *, high: bool = False) -> bytes:
    return _load(16 + 8 * place + 4 * high)


def _program(machine: str, own: int) -> bytes:
    """The filter for a process with the number `own`."""
    column = list(_MACHINES).index(machine)
    refused = _give(_ERROR | _EPERM)
    lines = [_load(4), _equal(_MACHINES[machine], 1, 0), _give(_KILL), _load(0)]
    # Beyond are new calls, and on x86_64 a second numbering of the old ones.
    lines += [_above(_NEWEST, 0, 1), _give(_ERROR | _ENOSYS)]
    for numbers in _CALLS.values():
        if numbers[column] is not None:
            lines += [_equal(numbers[column], 0, 1), refused]  # type: ignore[arg-type]
    special = {name: numbers[column] for name, numbers in _LOOKED_AT.items()}
    lines += [_equal(special["clone3"], 0, 1), _give(_ERROR | _ENOSYS)]  # then clone is tried
    tests = {
        "clone": _has_bits(_CLONE_THREAD, 0, 1),
        "socketpair": _equal(_AF_UNIX, 0, 1),
        "kill": _equal(own, 0, 1),
        "tgkill": _equal(own, 0, 1),
    }
    for name, test in tests.items():
        lines += [_equal(special[name], 0, 4), _argument(0), test, _give(_ALLOW), refused]
    # Limits may be read: the new ones are a null pointer.
    lines += [_equal(special["prlimit64"], 0, 6), _argument(2), _equal(0, 0, 3)]
    lines += [_argument(2, high=True), _equal(0, 0, 1), _give(_ALLOW), refused]
    return b"".join([*lines, _give(_ALLOW)])


def filtered() -> None:
    """The filter over system calls, which this process cannot take off."""
    machine = platform.machine()
    if machine not in _MACHINES or sys.byteorder != "little":
        raise OSError(f"seccomp: no filter for {machine}")
    code = _program(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(
        struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    )
    mode_filter = 2
    _checked(_prctl(_PR_SET_SECCOMP, mode_filter, ctypes.addressof(head)), "seccomp")


def lock(
    home: str,
    *,
    memory_mib: int,
    seconds: float,
    disk_mib: int = 64,
    file_mib: int = 16,
    read: list[str] | None = None,
) -> dict[str, str]:
    """Close every lock, and say for each that did not close why.

    `namespaces` are a second wall and the size of the home: `landlock` and `seccomp` hold without.
    """
    open_still: dict[str, str] = {}

    def close(name: str, how: object, *values: object) -> None:
        try:
            how(*values)  # type: ignore[operator]
        except Exception as error:
            open_still[name] = str(error)

    close("orphans", mortal)
    close("namespaces", apart, home, disk_mib)
    os.chdir(home)
    close("powers", powerless)
    close("landlock", walled, home, read or [])
    close("limits", limited, memory_mib, seconds, file_mib)
    close("seccomp", filtered)
    return open_still
