"""Times of the terminal, as docs/measurements.md quotes them: python3 benches/terminal.py target/release/fathom (Linux)."""

import json, os, pty, select, subprocess, sys, tempfile, time

BINARY = os.path.abspath(sys.argv[1])
HOME = tempfile.mkdtemp()
ENV = dict(os.environ, TERM="xterm", HOME=HOME, XDG_STATE_HOME=HOME, XDG_CONFIG_HOME=HOME)


def first_event(runs=15):
    """Milliseconds from the start of the process to the line of the first token."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        command = [BINARY, "run", "--format", "jsonl", "What is 47 + 85?"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=ENV) as p:
            for line in p.stdout:
                if json.loads(line)["event"] in ("reasoning", "content"):
                    times.append((time.perf_counter() - start) * 1e3)
                    break
            p.stdout.read()
    times.sort()
    return f"first token's event: median {times[runs // 2]:.1f} ms, fastest {times[0]:.1f}, slowest {times[-1]:.1f}"


def idle(seconds=10):
    """Processor time of a chat that has answered once and waits."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(BINARY, [BINARY, "chat", "--temp", "0"], ENV)

    def read_until(text):
        seen = b""
        while text not in seen:
            select.select([fd], [], [])
            seen += os.read(fd, 65536)

    def used():
        fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    read_until(b">>> ")
    os.write(fd, b"What is 2 + 2?\r")
    read_until(b"= 4")
    time.sleep(1)
    before = used()
    time.sleep(seconds)
    share = (used() - before) / seconds
    os.write(fd, b"/bye\r")
    os.waitpid(pid, 0)
    return f"idle chat: {100 * share:.1f} % of a core"


def resume(runs=5):
    """Seconds of a process that loads 10,000 tokens with their cache, reads a question and answers a token."""
    text, chat = os.path.join(HOME, "long.txt"), os.path.join(HOME, "long.chat")
    open(text, "w").write("one two three four five six. " * 670)
    command = [BINARY, "chat", "-q", "-c", "12000", "--temp", "0", "-n", "2", "--think-budget", "0"]
    subprocess.run(command, input=f"/read {text}\nWhat?\n/save {chat}\n", text=True, capture_output=True, check=True, env=ENV)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run(command, input=f"/load {chat}\nAnd 2 + 2?\n", text=True, capture_output=True, check=True, env=ENV)
        times.append(time.perf_counter() - start)
    return f"resumed and answered: median {sorted(times)[runs // 2]:.3f} s"


print(first_event(), idle(), resume(), sep="\n")
