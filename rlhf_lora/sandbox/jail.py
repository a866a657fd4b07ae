"""Make this process a jail: no files but the standard library (read-only) and a small scratch folder, no privileges.

Runs inside namespaces that the sandbox made; Linux and the standard library only. After `close_in` there is no /proc,
no /etc, no home, and no way back: the old root is unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import sys
from collections.abc import Mapping

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MS_RELATIME, MNT_DETACH = 1 << 18, 1 << 21, 2
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
KEYCTL_JOIN_SESSION_KEYRING = 1
KEY_CALLS = {"x86_64": (0xC000003E, 248, 249, 250), "aarch64": (0xC00000B7, 217, 218, 219)}
"""Per machine: its mark in a filter, then the numbers of add_key, request_key and keyctl."""
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib")
SCRATCH = "/work"


def close_in(python_lib: str, scratch_mb: int, user: int) -> None:
    """Leave only the libraries and `SCRATCH` in sight, and go there. Needs a mount namespace of its own.

    Args:
        user: whose the scratch folder shall be, when this is root's process.

    Raises:
        OSError: the kernel refuses a step.
    """
    top = "/proc"  # any folder that is always there and holds nothing we need
    root = f"{top}/inside"
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    os.mkdir(root)
    for path in sorted({*LIBRARIES, python_lib}):
        _show(path, root)
    os.mkdir(root + SCRATCH)
    size = f"size={scratch_mb}m,nr_inodes=4096,mode=0700"
    _mount("tmpfs", root + SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV, size)
    if os.getuid() == 0 and _real_root():
        os.chown(root + SCRATCH, user, user)
    _mount(None, top, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(top)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chroot("/inside")  # the kernel gives no new user namespace, and so no new privileges, to whoever is in a chroot
    os.chdir(SCRATCH)


def _show(path: str, root: str) -> None:
    """Bind one folder read-only at its own place under `root`; a link stays a link."""
    inside = root + path
    if os.path.lexists(inside):  # within a folder that is there already
        return
    if os.path.islink(path):
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.symlink(os.readlink(path), inside)
    elif os.path.isdir(path):
        os.makedirs(inside)
        _mount(path, inside, None, MS_BIND | MS_REC)
        # flags that the folder has may not be taken away in a user namespace, so they are said again
        has = os.statvfs(path).f_flag
        keep = has & (MS_NODEV | MS_NOEXEC | 1024 | 2048) | (MS_RELATIME if has & 4096 else 0)
        _mount(None, inside, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | keep)


def protect_init() -> None:
    """Nobody traces the first process: it is what ends all others."""
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_up_privileges(user: int) -> None:
    """No capability, now or by running anything; `user` instead of root; no keys of anybody's."""
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    real_root = os.getuid() == 0 and _real_root()
    for capability in range(64):
        try:
            _call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
        except OSError:
            break  # past the last one that this kernel has
    if real_root:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    _leave_keys()


def _leave_keys() -> None:
    """Leave the user's session keyring, and refuse every call about keys from here on: EPERM.

    The kernel's keys are in no namespace of ours. The filter has to be told each machine's numbers.

    Raises:
        OSError: this machine's are not known, or the kernel has no filters.
    """
    machine = os.uname().machine
    if machine not in KEY_CALLS or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"the calls that must be refused are not known for {machine}")
    mark, *calls = KEY_CALLS[machine]
    # whatever it says (no keys in this kernel, refused already): the filter holds
    ctypes.CDLL(None).syscall(ctypes.c_long(calls[-1]), ctypes.c_long(KEYCTL_JOIN_SESSION_KEYRING), None)
    load, if_equal, if_at_least, answer = 0x20, 0x15, 0x35, 0x06
    last = len(calls) + 5
    steps = [
        (load, 0, 0, 4), (if_equal, 0, last - 2, mark),  # another machine's calls: to the last step
        (load, 0, 0, 0), (if_at_least, last - 4, 0, 1 << 30),  # x86_64 has every call once more from there on
        *((if_equal, last - 5 - i, 0, call) for i, call in enumerate(calls)),
        (answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x00050000 | errno.EPERM),
    ]  # fmt: skip
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = ctypes.create_string_buffer(code)
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, fprog, 0, 0)


_uid_map = ""


def remember_user() -> None:
    """Read whether root here is root outside; to be called while /proc is still there."""
    global _uid_map
    with open("/proc/self/uid_map", encoding="ascii") as file:
        _uid_map = " ".join(file.read().split())


def _real_root() -> bool:
    return _uid_map == "0 0 4294967295"


def limit(limits: Mapping[str, int]) -> None:
    """Set resource limits by name (`CPU` → RLIMIT_CPU), for good."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    source_, kind_, data_ = (None if text is None else text.encode() for text in (source, kind, data))
    _call("mount", source_, target.encode(), kind_, ctypes.c_ulong(flags), data_)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        shown = ", ".join(str(argument) for argument in arguments[:2])
        raise OSError(number, f"{name}({shown}): {os.strerror(number)}")
