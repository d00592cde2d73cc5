package sandbox_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshswarm/meshswarm/agent/sandbox"
)

// The test binary is also the sandbox, and the task that lives in its namespace.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "sandbox":
			fatal(sandbox.Main(os.Args[2:]))
		case "task":
			fatal(task(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// task runs in fresh namespaces: it starts the sandbox there and then does what its standard input says, one command and
// one answer per line.
func task(dir string) error {
	c := exec.Command("/proc/self/exe", "sandbox", dir)
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := command(c, strings.Fields(lines.Text()))
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
	c.Process.Signal(os.Interrupt)
	return c.Wait()
}

var conn net.Conn

func command(sandbox *exec.Cmd, words []string) (string, error) {
	switch words[0] {
	case "listen": // ADDR: echo whatever comes
		l, err := net.Listen("tcp", words[1])
		if err != nil {
			return "", err
		}
		go echo(l)
		return "ok", nil
	case "dial": // ADDR
		c, err := net.Dial("tcp", words[1])
		conn = c
		return "ok", err
	case "hear": // ADDR: listen, take what comes and say nothing
		l, err := net.Listen("tcp", words[1])
		if err != nil {
			return "", err
		}
		go hear(l)
		return "ok", nil
	case "stream": // ADDR: say something every 20 ms to who connects
		l, err := net.Listen("tcp", words[1])
		if err != nil {
			return "", err
		}
		go stream(l)
		return "ok", nil
	case "say": // TEXT, and expect no answer
		_, err := io.WriteString(conn, words[1])
		return "ok", err
	case "send": // N bytes, and back
		return "ok", transfer(conn, words[1])
	case "udp": // ADDR: what an echo there answers
		c, err := net.Dial("udp", words[1])
		if err != nil {
			return "", err
		}
		return c.LocalAddr().String(), c.Close()
	case "devices":
		return devices()
	case "status": // of the sandbox process
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", sandbox.Process.Pid))
		return strings.ReplaceAll(string(b), "\n", ";"), err
	case "memory":
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", sandbox.Process.Pid))
		return strings.ReplaceAll(string(b), "\n", ";"), err
	}
	return "", fmt.Errorf("unknown command %q", words[0])
}

func stream(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		tick := time.NewTicker(20 * time.Millisecond)
		for err == nil {
			_, err = io.WriteString(c, ".")
			<-tick.C
		}
		tick.Stop()
		c.Close()
	}
}

func hear(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}()
	}
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			c.Close()
		}()
	}
}

func transfer(c net.Conn, count string) error {
	var n int
	if _, err := fmt.Sscan(count, &n); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 7 >> 3)
		}
		_, err := c.Write(b)
		sent <- err
	}()
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	for i := range got {
		if got[i] != byte(i*7>>3) {
			return fmt.Errorf("byte %d is wrong", i)
		}
	}
	return <-sent
}

func devices() (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	var out []string
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			return "", err
		}
		out = append(out, fmt.Sprint(i.Name, " ", i.MTU, " ", addrs))
	}
	return strings.Join(out, "; "), nil
}
