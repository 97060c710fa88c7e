"""What the errors mean that end a command: the names that `--json` prints as `error.kind`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """One error: its name, the exit code, what it means, how it looks, and how to mend it."""

    name: str
    exit_code: int
    title: str
    text: str
    example: str
    mend: str


ERRORS: tuple[ErrorPage, ...] = (
    ErrorPage(
        "TsstackError",
        1,
        "Something else went wrong",
        "A failure that has no kind of its own: a part of the installation is missing, or an engine gave an "
        "answer that nobody expected. The message says what it was.",
        "error: the data folders of tsstack are missing beside /usr/lib/python3/dist-packages/tsstack",
        "do as the `help:` line says, then run the command again",
    ),
    ErrorPage(
        "CommandFailed",
        1,
        "Another program ended badly",
        "tsstack started a program (nft, nginx, sops, ip) that is not installed, did not finish in time, or "
        "ended with an error. The last line that it printed is in the message.",
        "error: sops ended with 128: failed to get the data key",
        "install the program, or mend what it complains of; `tsstack doctor` says which programs are missing",
    ),
    ErrorPage(
        "TransferFailed",
        1,
        "A throughput test came to no result",
        "`ts-benchmark` moved bytes to or from the other end, and that refused, fell silent or broke off. "
        "The message has its words; everything else was measured.",
        "the other end at 100.64.0.3 port 5299: it serves somebody else; try again in a minute",
        "run it again; on the other end `ts-benchmark --serve` says what it saw",
    ),
    ErrorPage(
        "NobodyThere",
        1,
        "Nobody answers a throughput test",
        "Neither `iperf3 -s` nor `ts-benchmark --serve` listens on the other end, or its firewall does not "
        "let this host in.",
        "nobody answers at 100.64.0.3 port 5299: connection refused",
        "start `ts-benchmark --serve` there, and let its firewall open that port to the tailnet",
    ),
    ErrorPage(
        "Unreachable",
        1,
        "The peer cannot be reached",
        "`ts-benchmark` got no answer from the peer at all: it is off, or no packet finds a way there.",
        "exit-a does not answer: no reply to 3 pings",
        "tailscale ping exit-a; tsstack doctor",
    ),
    ErrorPage(
        "LocalApiError",
        1,
        "tsstack cannot talk to tailscaled",
        "tailscaled did not answer on its socket, or refused what it was asked. Most commands turn this into "
        "an error of their own moment; by itself it is seen where only tailscaled was asked.",
        "error: nothing answers on /var/run/tailscale/tailscaled.sock",
        "systemctl status tailscaled; changing it needs root",
    ),
    ErrorPage(
        "LocalApiAway",
        1,
        "No tailscaled runs",
        "Nobody listens on tailscaled's socket, or there is none: it was stopped, or is not installed.",
        "error: tailscaled does not answer on /var/run/tailscale/tailscaled.sock: No such file or directory",
        "systemctl start tailscaled",
    ),
    ErrorPage(
        "LocalApiTimeout",
        1,
        "tailscaled did not answer in time",
        "A request to tailscaled, or an event that was waited for, took longer than its limit. It may be "
        "waiting for the control server.",
        "error: tailscaled did not answer within 10 s",
        "tailscale status; look whether the control server can be reached",
    ),
    ErrorPage(
        "NotRunning",
        4,
        "No monitor runs",
        "A command wanted to ask or tell the monitor, and nothing listens on its socket.",
        "error: no monitor listens on /run/tsstack/monitor.sock",
        "tsstack units install --monitor, or systemctl status tsstack-monitor where it is installed",
    ),
    ErrorPage(
        "NftError",
        1,
        "nft refused a command",
        "libnftables is missing, or the kernel refused what it was given. Most commands turn this into an "
        "error of their own moment, with the line.",
        "error: libnftables cannot be loaded: libnftables.so.1: cannot open shared object file",
        "apt install nftables; the packet filter needs root",
    ),
    ErrorPage(
        "Interrupted",
        1,
        "The command was told to stop",
        "A signal (Ctrl-C, a closed terminal, systemd) came in the middle of a change. What had been changed "
        "was undone before the command ended.",
        "error: interrupted by SIGHUP",
        "run the command again; over SSH, in tmux, or with `--confirm 60s`",
    ),
    ErrorPage(
        "UsageError",
        2,
        "The command line asks for something that cannot be asked",
        "A word, an option or a combination of them is not understood, or speaks of something that is not "
        "there. Nothing was done.",
        "tsstack explain dmz 5432\nerror: '5432' is neither PROTO/PORT nor a service",
        "tsstack explain dmz tcp/5432",
    ),
    ErrorPage(
        "ConfigError",
        3,
        "The file is invalid",
        "The file has at least one fault. All of them are printed, each with its place, its code and what to "
        "write instead. Nothing was changed.",
        "tsstack.yaml:11:36: error TS101: firewall.zones.dmz.tpc: the key is not known here",
        'do as the `help:` lines say (did you mean "tcp"?), then `tsstack check`',
    ),
    ErrorPage(
        "CheckFailed",
        4,
        "A check refused the change",
        "The file is valid, but an engine (nft, nginx, tailscaled) does not accept what it renders to, the "
        "proof found a difference, or the change would cut your own way in. Nothing on the host was changed.",
        "error: nginx refuses the configuration: host not found in upstream",
        "mend what the message names; `tsstack check` asks the engines without changing anything",
    ),
    ErrorPage(
        "NoWorld",
        4,
        "There can be no throwaway network here",
        "`tsstack prove` needs a network namespace and the tun device. This user or this container may not "
        "have them. Nothing was changed.",
        "error: no world to prove in: /dev/net/tun: No such file or directory",
        "run it as root; modprobe tun; hand /dev/net/tun to the container",
    ),
    ErrorPage(
        "SecretError",
        4,
        "A secret cannot be read",
        "The encrypted file or a key file is missing, cannot be decrypted here, or lacks the named key. The "
        "message never holds any of its content. Nothing was changed.",
        "error: /etc/tsstack/secrets.yaml cannot be decrypted: no key here opens it",
        "tsstack secrets check; the identity of this host is /etc/tsstack/age.key",
    ),
    ErrorPage(
        "LockedError",
        4,
        "Another tsstack command is at work",
        "One command at a time may change the host. The message names the process that holds the lock. "
        "Nothing was changed.",
        "error: another tsstack command holds the lock: `tsstack switch` (pid 4711)",
        "wait until it has ended; a lock goes with its process, it never has to be removed by hand",
    ),
    ErrorPage(
        "ApplyFailed",
        5,
        "The change failed and was undone",
        "A part could not be activated, or new connections did not work afterwards. Everything was put back "
        "to what it was before; the message names the part.",
        "error: proxy: https://wiki.kernelcore.tail.test/ does not answer; the host is as before",
        "mend what the message names, then `tsstack switch` again",
    ),
    ErrorPage(
        "Refused",
        5,
        "The kernel refused a parameter",
        "A value of `kernel.sysctl` was not accepted: it is out of its bounds, or it cannot be written here "
        "(in a container, for example). Everything was put back.",
        "error: kernel: net.core.rmem_max: Invalid argument",
        "write a value that the kernel takes, or leave the parameter out",
    ),
    ErrorPage(
        "AddressHeld",
        5,
        "Another program holds an address that nginx needs",
        "nginx could not bind an address because another program listens there. Everything was put back.",
        "error: proxy: 0.0.0.0:443 is held by apache2 (pid 812)",
        "stop that program, or give the proxy another port",
    ),
    ErrorPage(
        "RollbackFailed",
        6,
        "The rollback itself is incomplete",
        "A change failed, and so did a part of undoing it. The message says what is left as it should not be "
        "and where the backup lies. This is the one error that needs a person at once.",
        "error: rollback incomplete: firewall: table inet tsstack could not be loaded",
        "mend what is named, then `tsstack recover`; `tsstack rollback` goes to an earlier generation",
    ),
)
