"""Numbers in Linux audit records that have names: types of records, and system calls.

Facts: include/uapi/linux/audit.h and arch/x86/entry/syscalls/syscall_64.tbl of Linux, msg_typetab.h of audit-userspace.
"""

from __future__ import annotations

__all__ = ["CALLS", "EXECVE", "TYPES"]

_TYPES = (
    "1006:LOGIN 1100:USER_AUTH 1101:USER_ACCT 1102:USER_MGMT 1103:CRED_ACQ 1104:CRED_DISP 1105:USER_START "
    "1106:USER_END 1107:USER_AVC 1108:USER_CHAUTHTOK 1109:USER_ERR 1110:CRED_REFR 1112:USER_LOGIN 1113:USER_LOGOUT "
    "1114:ADD_USER 1115:DEL_USER 1116:ADD_GROUP 1117:DEL_GROUP 1123:USER_CMD 1124:USER_TTY 1130:SERVICE_START "
    "1131:SERVICE_STOP 1300:SYSCALL 1302:PATH 1305:CONFIG_CHANGE 1306:SOCKADDR 1307:CWD 1309:EXECVE 1320:EOE "
    "1325:NETFILTER_CFG 1326:SECCOMP 1327:PROCTITLE 1400:AVC 1700:ANOM_PROMISCUOUS 1701:ANOM_ABEND"
)
_CALLS = (
    "2:open 41:socket 42:connect 43:accept 44:sendto 49:bind 50:listen 56:clone 57:fork 59:execve 62:kill 76:truncate "
    "80:chdir 82:rename 83:mkdir 84:rmdir 85:creat 86:link 87:unlink 88:symlink 90:chmod 91:fchmod 92:chown 93:fchown "
    "101:ptrace 105:setuid 106:setgid 113:setreuid 117:setresuid 165:mount 166:umount2 175:init_module "
    "176:delete_module 257:openat 258:mkdirat 260:fchownat 263:unlinkat 264:renameat 265:linkat 266:symlinkat "
    "268:fchmodat 288:accept4 310:process_vm_readv 311:process_vm_writev 313:finit_module 316:renameat2 "
    "319:memfd_create 321:bpf 322:execveat"
)

TYPES = dict(each.split(":") for each in _TYPES.split())
"""Types as the kernel's own log writes them."""
CALLS = dict(each.split(":") for each in _CALLS.split())
"""The calls of x86_64 that rules are usually about."""
EXECVE = {("c000003e", "59"), ("c000003e", "322"), ("40000003", "11"), ("c00000b7", "221"), ("c00000b7", "281")}
"""(arch, call) of execve and execveat on x86_64, i386 and aarch64."""
