"""Lines as the vendors document them, written for these tests; addresses and names are made up."""

from __future__ import annotations

__all__ = ["AUDIT", "SAMPLES", "VPC", "ZEEK"]

LINUX = [
    "<86>Jun 15 12:00:01 web1 sshd[4711]: Accepted publickey for ada from 203.0.113.7 port 51122 ssh2: ED25519 SHA256:qk3",
    "Jun 15 12:00:02 web1 sshd[4712]: Failed password for invalid user admin from 198.51.100.9 port 40022 ssh2",
    "Jun 15 12:00:02 web1 sshd[4712]: Failed password for root from 2001:db8::5 port 40023 ssh2",
    "Jun 15 12:00:03 web1 sshd[4712]: Invalid user oracle from 198.51.100.9 port 40022",
    "Jun 15 12:00:04 web1 sshd[4712]: Disconnected from authenticating user root 198.51.100.9 port 40022 [preauth]",
    "Jun 15 12:00:04 web1 sshd[4712]: Received disconnect from 198.51.100.9 port 40022:11: Bye Bye [preauth]",
    "Jun 15 12:00:04 web1 sshd[4712]: Connection closed by invalid user oracle 198.51.100.9 port 40022 [preauth]",
    "Jun 15 12:00:05 web1 sshd[4711]: pam_unix(sshd:session): session opened for user ada(uid=1000) by (uid=0)",
    "Jun 15 12:30:05 web1 sshd[4711]: pam_unix(sshd:session): session closed for user ada",
    "Jun 15 12:00:06 web1 sshd[4713]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= "
    "rhost=198.51.100.9  user=root",
    "Jun 15 12:01:00 web1 sudo:      ada : TTY=pts/0 ; PWD=/home/ada ; USER=root ; COMMAND=/usr/bin/apt update",
    "Jun 15 12:01:01 web1 sudo:      bob : user NOT in sudoers ; TTY=pts/1 ; PWD=/home/bob ; USER=root ; COMMAND=/bin/sh",
    "Jun 15 12:01:02 web1 su[99]: (to root) ada on pts/0",
    "Jun 15 12:01:02 web1 su[99]: FAILED SU (to root) bob on pts/1",
    "Jun 15 12:05:01 web1 CRON[5000]: (root) CMD (/usr/local/bin/backup --all)",
    "Jun 15 12:05:01 web1 crontab[5001]: (ada) REPLACE (ada)",
    "2025-06-15T12:06:00.123456+02:00 web1 useradd[5100]: new user: name=eve, UID=1005, GID=1005, home=/home/eve, "
    "shell=/bin/bash, from=/dev/pts/0",
    "Jun 15 12:06:01 web1 usermod[5101]: add 'eve' to group 'sudo'",
    "Jun 15 12:06:02 web1 passwd[5102]: pam_unix(passwd:chauthtok): password changed for eve",
    "Jun 15 12:06:03 web1 userdel[5103]: delete user 'eve'",
    "Jun 15 12:07:00 web1 systemd-logind[600]: New session 17 of user ada.",
    "<4>Jun 15 12:08:00 web1 kernel: [12345.678] device eth0 entered promiscuous mode",
    '<165>1 2025-06-15T10:09:00.003Z web1 evntslog 17 ID47 [ex@32473 iut="3" src="App \\"x\\""][b@1] An application event',
]

ASA = [
    '<164>Jun 15 2025 12:00:00 fw1 : %ASA-4-106023: Deny tcp src outside:198.51.100.9/40022 dst inside:10.0.0.5/22 by '
    'access-group "outside_in" [0x0, 0x0]',
    '%ASA-4-106023: Deny icmp src outside:198.51.100.9 dst inside:10.0.0.5 (type 8, code 0) by access-group "outside_in"',
    "<166>Jun 15 2025 12:00:00 fw1 : %ASA-6-106100: access-list in_acl permitted tcp inside/10.0.0.5(51000) -> "
    "outside/203.0.113.80(443) hit-cnt 1 first hit [0x1, 0x2]",
    "Jun 15 12:00:01 fw1 %ASA-6-302013: Built outbound TCP connection 4711 for outside:203.0.113.80/443 "
    "(203.0.113.80/443) to inside:10.0.0.5/51000 (192.0.2.1/51000)",
    "Jun 15 12:00:01 fw1 %ASA-6-302013: Built inbound TCP connection 4712 for outside:198.51.100.9/40022 "
    "(198.51.100.9/40022) to inside:10.0.0.5/22 (192.0.2.5/22) (ada)",
    "Jun 15 12:00:31 fw1 %ASA-6-302014: Teardown TCP connection 4712 for outside:198.51.100.9/40022 to inside:10.0.0.5/22 "
    "duration 0:00:30 bytes 5120 TCP FINs (ada)",
    "Jun 15 12:00:01 fw1 %ASA-6-302015: Built outbound UDP connection 4713 for outside:192.0.2.53/53 (192.0.2.53/53) to "
    "inside:10.0.0.5/53000 (192.0.2.1/53000)",
    "Jun 15 12:00:31 fw1 %ASA-6-302016: Teardown UDP connection 4713 for outside:192.0.2.53/53 to inside:10.0.0.5/53000 "
    "duration 0:00:00 bytes 148",
    "Jun 15 12:00:01 fw1 %ASA-6-302020: Built inbound ICMP connection for faddr 198.51.100.9/7 gaddr 192.0.2.5/0 laddr "
    "10.0.0.5/0 type 8 code 0",
    "Jun 15 12:00:02 fw1 %ASA-6-302021: Teardown ICMP connection for faddr 198.51.100.9/7 gaddr 192.0.2.5/0 laddr 10.0.0.5/0",
    "Jun 15 12:00:03 fw1 %ASA-6-113004: AAA user authentication Successful : server =  10.0.0.8 : user = ada",
    "Jun 15 12:00:03 fw1 %ASA-6-113005: AAA user authentication Rejected : reason = AAA failure : server = 10.0.0.8 : "
    "user = bob : user IP = 198.51.100.9",
    "Jun 15 12:00:03 fw1 %ASA-6-113012: AAA user authentication Successful : local database : user = ada",
    "Jun 15 12:00:03 fw1 %ASA-6-113015: AAA user authentication Rejected : reason = Invalid password : local database : "
    "user = bob : user IP = 198.51.100.9",
    'Jun 15 12:00:04 fw1 %ASA-6-605004: Login denied from 198.51.100.9/40100 to outside:192.0.2.5/ssh for user "bob"',
    'Jun 15 12:00:04 fw1 %ASA-6-605005: Login permitted from 10.0.0.9/40101 to inside:10.0.0.1/ssh for user "ada"',
    "Jun 15 12:00:05 fw1 %ASA-6-611101: User authentication succeeded: IP address: 10.0.0.9, Uname: ada",
    "Jun 15 12:00:05 fw1 %ASA-6-611102: User authentication failed: IP address: 10.0.0.9, Uname: bob",
    "Jun 15 12:00:05 fw1 %ASA-6-611103: User logged out: Uname: ada",
    "Jun 15 12:00:06 fw1 %ASA-5-111008: User 'ada' executed the 'no logging enable' command.",
    "Jun 15 12:00:06 fw1 %ASA-5-111010: User 'ada', running 'CLI' from IP 10.0.0.9, executed 'write memory'",
    "Jun 15 12:00:07 fw1 %ASA-6-722022: Group <staff> User <ada> IP <203.0.113.7> TCP SVC connection established without "
    "compression",
    "Jun 15 12:00:08 fw1 %ASA-6-722023: Group <staff> User <ada> IP <203.0.113.7> TCP SVC connection terminated without "
    "compression",
    "Jun 15 12:00:08 fw1 %ASA-4-722051: Group <staff> User <ada> IP <203.0.113.7> IPv4 Address <10.9.0.7> IPv6 address <::> "
    "assigned to session",
    "Jun 15 12:00:09 fw1 %ASA-4-733100: [ Scanning] drop rate-1 exceeded. Current burst rate is 15 per second, max "
    "configured rate is 10; Current average rate is 8 per second, max configured rate is 5; Cumulative total count is 4801",
    "Jun 15 12:00:10 fw1 %ASA-5-505013: Module in slot 1 is up",
]

PALO = [
    "<14>Jun 15 12:00:00 pa1 1,2025/06/15 12:00:00,001801000001,TRAFFIC,end,2305,2025/06/15 11:59:59,10.0.0.5,203.0.113.80,"
    "192.0.2.1,203.0.113.80,allow out,corp\\ada,,ssl,vsys1,trust,untrust,ethernet1/2,ethernet1/1,fwd,2025/06/15 12:00:00,"
    "33123,1,51000,443,20000,443,0x400053,tcp,allow,5120,1120,4000,20,2025/06/15 11:59:29,30,business,0,7000001,0x0,"
    "10.0.0.0-10.255.255.255,US,0,9,11,tcp-fin",
    "<14>Jun 15 12:00:00 pa1 1,2025/06/15 12:00:00,001801000001,TRAFFIC,deny,1,2025/06/15 12:00:00,198.51.100.9,10.0.0.5,"
    "0.0.0.0,0.0.0.0,deny all,,,not-applicable,vsys1,untrust,trust,ethernet1/1,,fwd,2025/06/15 12:00:00,0,1,40000,22,0,0,"
    "0x0,tcp,deny,60,60,0,1,2025/06/15 12:00:00,0,any,0,7000002,0x0,US,10.0.0.0-10.255.255.255,0,1,0,policy-deny,0,0,0,0,,"
    "pa1,from-policy",
    "1,2025/06/15 12:00:01,001801000001,THREAT,vulnerability,2305,2025/06/15 12:00:01,198.51.100.9,10.0.0.5,198.51.100.9,"
    "192.0.2.5,web in,,,web-browsing,vsys1,untrust,dmz,ethernet1/1,ethernet1/3,fwd,2025/06/15 12:00:01,33124,1,40001,80,"
    '40001,80,0x2000,tcp,reset-both,"index.php?a=1,2",HTTP SQL Injection Attempt(30514),any,high,client-to-server,7000003,'
    "0x0,US,10.0.0.0-10.255.255.255,0,,0,,,0,,,,,,,,0,0,0,0,0,,pa1,0,0,0,get",
    "1,2025/06/15 12:00:02,001801000001,THREAT,url,2305,2025/06/15 12:00:02,10.0.0.5,203.0.113.81,192.0.2.1,203.0.113.81,"
    "allow out,corp\\ada,,web-browsing,vsys1,trust,untrust,ethernet1/2,ethernet1/1,fwd,2025/06/15 12:00:02,33125,1,51001,80,"
    '20001,80,0x403000,tcp,block-url,"bad.example/download",(9999),malware,informational,client-to-server,7000004,0x0,'
    "10.0.0.0-10.255.255.255,US,0,text/html,0,,,1,curl/8.0,,,http://ref.example/,,,,0",
    "1,2025/06/15 12:00:03,001801000001,THREAT,wildfire,2305,2025/06/15 12:00:03,203.0.113.81,10.0.0.5,203.0.113.81,"
    "192.0.2.1,allow out,,corp\\ada,web-browsing,vsys1,untrust,trust,ethernet1/1,ethernet1/2,fwd,2025/06/15 12:00:03,33126,1,"
    "80,51002,80,20002,0x0,tcp,allow,setup.exe,Windows Executable (EXE)(52020),malicious,medium,server-to-client,7000005,0x0,"
    "US,10.0.0.0-10.255.255.255,0,,0,e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855,wildfire.example,0,,pe,"
    ",,,,,24001",
    "1,2025/06/15 12:00:03,001801000001,THREAT,file,2305,2025/06/15 12:00:03,203.0.113.81,10.0.0.5,203.0.113.81,"
    "192.0.2.1,allow out,,,web-browsing,vsys1,untrust,trust,ethernet1/1,ethernet1/2,fwd,2025/06/15 12:00:03,33127,1,"
    "80,51003,80,20003,0x0,tcp,alert,report.pdf,Adobe Portable Document Format (PDF)(52021),any,low,server-to-client,7000006,"
    "0x0,US,10.0.0.0-10.255.255.255",
    "1,2025/06/15 12:00:04,001801000001,CONFIG,0,2305,2025/06/15 12:00:04,10.0.0.9,,set,admin,Web,Succeeded, config shared "
    "log-settings,before,after,7000007,0x0,0,0,0,0,,pa1",
    "1,2025/06/15 12:00:04,001801000001,SYSTEM,auth,0,2025/06/15 12:00:04,,auth-fail,,0,0,general,medium,"
    '"failed authentication for user ""bob"". Reason: Invalid username/password. From: 198.51.100.9.",7000008,0x0,0,0,0,0,,pa1',
    "1,2025/06/15 12:00:05,001801000001,GLOBALPROTECT,0,2562,2025/06/15 12:00:05,vsys1,gateway-auth,login,LDAP,,corp\\ada,US,"
    'ADA-PC,203.0.113.7,0.0.0.0,0.0.0.0,0.0.0.0,h-1,S-1,6.0.1,Windows,"Microsoft Windows 11 Pro , 64-bit",1,,,,success,,0,,0,'
    "gw1,7000009,0x8000000000000000,2025-06-15T12:00:05.123+02:00,,,,,gw1,0,0,0,0,,pa1,1",
    "1,2025/06/15 12:00:05,001801000001,GLOBALPROTECT,0,2562,2025/06/15 12:00:05,vsys1,gateway-connected,connected,,IPSec,"
    'corp\\ada,US,ADA-PC,203.0.113.7,0.0.0.0,10.9.0.7,0.0.0.0,h-1,S-1,6.0.1,Windows,"Microsoft Windows 11",1,,,,success,,0,,0,'
    "gw1,7000010,0x8000000000000000",
    "1,2025/06/15 12:00:06,001801000001,HIP-MATCH,0,2305,2025/06/15 12:00:06,corp\\ada,vsys1,ADA-PC,Windows,10.9.0.7,"
    "disk-encrypted,1,object,0,0,7000011,0x0",
    "1,2025/06/15 12:00:07,001801000001,CORRELATION,,,2025/06/15 12:00:07,10.0.0.5,corp\\ada,,compromised-host,critical,0,0,"
    '0,0,,pa1,,beacon-heuristics,6005,"Host visited known malware URL (10 times), and more."',
    "1,2025/06/15 12:00:08,001801000001,DECRYPTION,0,2562,2025/06/15 12:00:08,10.0.0.5,203.0.113.80",
]

FORTI = [
    '<189>date=2025-06-15 time=14:00:00 devname="fg1" devid="FG100D3G00000001" logid="0000000013" type="traffic" '
    'subtype="forward" level="notice" vd="root" eventtime=1749988800123456789 tz="+0200" srcip=10.0.0.5 srcport=51000 '
    'srcintf="port2" srcintfrole="lan" dstip=203.0.113.80 dstport=443 dstintf="wan1" dstintfrole="wan" '
    'sessionid=4711 proto=6 action="close" policyid=7 policyname="lan out" service="HTTPS" user="ada" app="HTTPS.BROWSER" '
    'duration=30 sentbyte=1120 rcvdbyte=4000 sentpkt=9 rcvdpkt=11',
    "date=2025-06-15 time=12:00:00 devname=fg1 devid=FG100D3G00000001 logid=0000000013 type=traffic subtype=forward "
    "level=warning vd=root srcip=198.51.100.9 srcport=40000 dstip=10.0.0.5 dstport=22 sessionid=4712 proto=6 action=deny "
    "policyid=0 service=SSH sentbyte=0 rcvdbyte=0",
    'date=2025-06-15 time=14:00:01 devname="fg1" devid="FG100D3G00000001" logid="0419016384" type="utm" subtype="ips" '
    'eventtype="signature" level="alert" tz="+0200" severity="critical" srcip=198.51.100.9 dstip=10.0.0.5 sessionid=4713 '
    'action="dropped" proto=6 service="HTTP" attack="Apache.Log4j.Error.Log.Remote.Code.Execution" srcport=40001 dstport=80 '
    'attackid=51006 msg="applications3: Apache.Log4j \\"x\\" C:\\\\temp"',
    'date=2025-06-15 time=14:00:02 devname="fg1" devid="FG100D3G00000001" logid="0316013056" type="utm" subtype="webfilter" '
    'eventtype="ftgd_blk" level="warning" tz="+0200" policyid=7 sessionid=4714 user="ada" srcip=10.0.0.5 srcport=51002 '
    'dstip=203.0.113.81 dstport=80 proto=6 service="HTTP" hostname="bad.example" action="blocked" url="http://bad.example/x" '
    'direction="outgoing" httpmethod="GET" catdesc="Malicious Websites" msg="URL belongs to a denied category"',
    'date=2025-06-15 time=14:00:03 devname="fg1" devid="FG100D3G00000001" logid="1501054802" type="utm" subtype="dns" '
    'eventtype="dns-response" level="notice" tz="+0200" policyid=7 sessionid=4715 srcip=10.0.0.5 srcport=53000 dstip=192.0.2.53 '
    'dstport=53 proto=17 xid=5137 qname="example.org" qtype="A" qtypeval=1 qclass="IN" ipaddr="203.0.113.80" action="pass"',
    'date=2025-06-15 time=14:00:03 devname="fg1" devid="FG100D3G00000001" logid="1059028704" type="utm" subtype="app-ctrl" '
    'level="information" srcip=10.0.0.5 dstip=203.0.113.80 srcport=51003 dstport=443 proto=6 sessionid=4716 app="BitTorrent" '
    'action="pass" apprisk="high"',
    'date=2025-06-15 time=14:00:04 devname="fg1" devid="FG100D3G00000001" logid="0100032002" type="event" subtype="system" '
    'level="alert" tz="+0200" logdesc="Admin login failed" user="admin" ui="ssh(198.51.100.9)" method="ssh" '
    'srcip=198.51.100.9 dstip=192.0.2.1 action="login" status="failed" reason="passwd_invalid" msg="Administrator admin '
    'login failed from ssh(198.51.100.9) because of invalid password"',
    'date=2025-06-15 time=14:00:05 devname="fg1" devid="FG100D3G00000001" logid="0101039424" type="event" subtype="vpn" '
    'level="information" tz="+0200" logdesc="SSL VPN tunnel up" action="tunnel-up" tunneltype="ssl-tunnel" tunnelid=77 '
    'remip=203.0.113.7 tunnelip=10.9.0.7 user="ada" group="staff" reason="tunnel established" msg="SSL tunnel established"',
    'date=2025-06-15 time=14:00:06 devname="fg1" devid="FG100D3G00000001" logid="0100044547" type="event" subtype="system" '
    'level="information" logdesc="Object attribute configured" user="admin" ui="GUI(10.0.0.9)" cfgpath="firewall.policy" '
    'cfgattr="status[enable->disable]" msg="Edit firewall.policy 7"',
]

CEF = [
    "<134>Jun 15 12:00:00 gw1 CEF:0|Acme|Gate\\|way|1.2|100|Port scan|7|src=198.51.100.9 spt=40000 dst=10.0.0.5 dpt=22 proto=TCP "
    "act=blocked rt=1749988800123 cs1Label=Rule Name cs1=Scan \\= many ports msg=many ports, one source\\nsecond line "
    "externalId=4711",
    "CEF:0|Acme|Proxy|2.0|200|Web request|2|rt=Jun 15 2025 12:00:01 src=10.0.0.5 dst=203.0.113.80 "
    "request=http://example.org/?a=b&c=d suser=ada in=4000 out=1120 outcome=success",
    "CEF:0|Acme|Agent|2.0|300|Started|Low|dvchost=host9 msg=service started",
    "CEF:0|Acme|Agent|2.0|301|No extension|Unknown|",
]

LEEF = [
    "<13>Jun 15 12:00:00 gw1 LEEF:1.0|Acme|Gate|1.2|100|src=198.51.100.9\tdst=10.0.0.5\tsrcPort=40000\tdstPort=22\tproto=TCP\t"
    "sev=7\tcat=firewall\tdevTime=1749988800123\tusrName=ada\tmsg=two words = one value",
    "LEEF:2.0|Acme|Gate|1.3|101|^|src=198.51.100.9^dst=10.0.0.5^sev=2^devTime=Jun 15 2025 12:00:01",
    "LEEF:2.0|Acme|Gate|1.3|102|0x7C|cat=audit|usrName=ada|sev=5",
    "LEEF:2.0|Acme|Gate|1.3|103|cat=audit\tusrName=bob\tsev=9",
]

AUDIT = [
    "node=web1 type=SYSCALL msg=audit(1750000000.123:77): arch=c000003e syscall=59 success=yes exit=0 a0=55 a1=56 a2=57 a3=8 "
    'items=2 ppid=100 pid=200 auid=1000 uid=1000 gid=1000 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=5 comm="sh" '
    'exe="/usr/bin/dash" key="exec"\x1dARCH=x86_64 SYSCALL=execve AUID="ada" UID="ada"',
    'node=web1 type=EXECVE msg=audit(1750000000.123:77): argc=4 a0="sh" a1="-c" a2_len=24 a2[0]=6563686F20 a2[1]=6869202620 a3="x"',
    'node=web1 type=CWD msg=audit(1750000000.123:77): cwd="/root"',
    'node=web1 type=PATH msg=audit(1750000000.123:77): item=0 name="/usr/bin/dash" inode=1 nametype=NORMAL',
    "node=web1 type=PROCTITLE msg=audit(1750000000.123:77): proctitle=7368002D63",
    "node=web1 type=EOE msg=audit(1750000000.123:77): ",
    "type=SYSCALL msg=audit(1750000001.000:78): arch=c000003e syscall=42 success=no exit=-115 a0=3 a1=7f a2=10 a3=0 items=0 "
    'ppid=1 pid=300 auid=4294967295 uid=0 gid=0 euid=0 tty=(none) ses=4294967295 comm="curl" exe="/usr/bin/curl" key=(null)',
    "type=SOCKADDR msg=audit(1750000001.000:78): saddr=020001BBCB0071500000000000000000",
    "type=SYSCALL msg=audit(1750000002.000:79): arch=c000003e syscall=263 success=yes exit=0 items=1 ppid=1 pid=301 auid=1000 "
    'uid=0 ses=5 comm="rm" exe="/usr/bin/rm" key="del"',
    'type=PATH msg=audit(1750000002.000:79): item=0 name="/var/log/" nametype=PARENT',
    "type=PATH msg=audit(1750000002.000:79): item=1 name=2F7661722F6C6F672F612062 nametype=DELETE",
    "type=USER_LOGIN msg=audit(1750000003.000:80): pid=400 uid=0 auid=4294967295 ses=4294967295 msg='op=login "
    'acct=28696E76616C6964207573657229 exe="/usr/sbin/sshd" hostname=? addr=198.51.100.9 terminal=sshd res=failed\'',
]

ZEEK = [
    "#separator \\x09",
    "#set_separator\t,",
    "#empty_field\t(empty)",
    "#unset_field\t-",
    "#path\tdns",
    "#open\t2025-06-15-12-00-00",
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\ttrans_id\tquery\tqtype_name\trcode\trcode_name\tAA\t"
    "answers\tTTLs\trejected",
    "#types\ttime\tstring\taddr\tport\taddr\tport\tenum\tcount\tstring\tstring\tcount\tstring\tbool\tvector[string]\t"
    "vector[interval]\tbool",
    "1750000000.123456\tCabc\t10.0.0.5\t53000\t192.0.2.53\t53\tudp\t4711\tex\\x09ample.org\tA\t0\tNOERROR\tF\t"
    "203.0.113.80,a\\x2cb\t30.000000,60.500000\tF",
    "1750000001.000000\tCdef\t10.0.0.5\t53001\t192.0.2.53\t53\tudp\t4712\t-\t-\t-\t-\tF\t(empty)\t-\tT",
    "#close\t2025-06-15-13-00-00",
]

VPC = [
    "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status "
    "vpc-id flow-direction tcp-flags",
    "5 123456789012 eni-0a 10.0.0.5 203.0.113.80 51000 443 6 20 5120 1749999940 1750000000 ACCEPT OK vpc-1 egress 19",
    "5 123456789012 eni-0a 198.51.100.9 10.0.0.5 40000 22 6 1 40 1749999940 1750000000 REJECT OK vpc-1 ingress 2",
    "5 123456789012 eni-0b - - - - - - - 1749999940 1750000000 - NODATA vpc-1 - -",
]

SAMPLES = {
    "linux_syslog": LINUX,
    "cisco_asa": ASA,
    "paloalto": PALO,
    "fortigate": FORTI,
    "cef": CEF,
    "leef": LEEF,
    "linux_auditd": AUDIT,
    "zeek": ZEEK,
    "aws_vpcflow": VPC,
}
"""Source -> the lines of a frame."""
