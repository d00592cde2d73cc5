// Command probe is what the integration tests run inside tasks: a server that tells who asked, and small clients that
// print one word or line about what they saw. It is static, so that an image of it needs nothing else.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/meshswarm/meshswarm/integration/load"
)

// timeout bounds every client command but hold.
const timeout = 3 * time.Second

func main() {
	commands := map[string]func(args []string) error{
		"serve": serve, "get": get, "lookup": lookup, "udp": udp, "tcp": tcp, "ping": ping, "hold": hold, "fail": fail, "healthy": healthy, "load": offer,
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: probe serve|get|lookup|udp|tcp|ping|hold|fail|healthy|load ARG…")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// serve answers HTTP on :8080 ("hostname client-address"), and echoes lines over TCP and datagrams over UDP on :7000.
func serve([]string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	lines, err := net.Listen("tcp", ":7000")
	if err != nil {
		return err
	}
	grams, err := net.ListenPacket("udp", ":7000")
	if err != nil {
		return err
	}
	errs := make(chan error, 3)
	go func() { errs <- echoLines(lines) }()
	go func() { errs <- echoGrams(grams, host) }()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, host, r.RemoteAddr) })
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
		_, _ = io.CopyN(w, zeros{}, n)
	})
	mux.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})
	srv := &http.Server{Addr: ":8080", Handler: mux}
	go func() { errs <- srv.ListenAndServe() }()
	fmt.Println("serving as", host)
	select {
	case err := <-errs:
		return err
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		return srv.Shutdown(end)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func echoLines(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func echoGrams(c net.PacketConn, host string) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(fmt.Appendf(nil, "%s %s %s", host, from, buf[:n]), from); err != nil {
			fmt.Println("answer", from, err)
		}
	}
}

func get(args []string) error {
	client := &http.Client{Timeout: timeout}
	resp, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// lookup NAME [TYPE] [SERVER] [EDNS-SIZE]: the code of the answer and its records, one line.
func lookup(args []string) error {
	qtype, server := dns.TypeA, "127.0.0.11:53"
	if len(args) > 1 {
		qtype = dns.StringToType[args[1]]
	}
	network := "udp"
	if len(args) > 2 {
		server = strings.TrimPrefix(args[2], "tcp:")
		if server != args[2] {
			network = "tcp"
		}
	}
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(args[0]), qtype)
	if len(args) > 3 {
		size, err := strconv.ParseUint(args[3], 10, 16)
		if err != nil {
			return err
		}
		m.SetEdns0(uint16(size), false)
	}
	c := &dns.Client{Net: network, Timeout: timeout}
	r, _, err := c.Exchange(m, server)
	if err != nil {
		return err
	}
	out := []string{dns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		f := strings.Fields(rr.String())
		out = append(out, f[len(f)-1])
	}
	fmt.Println(strings.Join(out, " "))
	return nil
}

func udp(args []string) error {
	c, err := net.DialTimeout("udp", args[0], timeout)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte(args[1])); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	if err != nil {
		return classify(err)
	}
	fmt.Println(string(buf[:n]))
	return nil
}

// tcp ADDR: open, refused, reset, unreachable or timeout.
func tcp(args []string) error {
	c, err := net.DialTimeout("tcp", args[0], timeout)
	if err != nil {
		return classify(err)
	}
	fmt.Println("open")
	return c.Close()
}

func classify(err error) error {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("refused")
	case errors.Is(err, syscall.ECONNRESET):
		return errors.New("reset")
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return errors.New("unreachable")
	case errors.As(err, &ne) && ne.Timeout():
		return errors.New("timeout")
	}
	return err
}

// ping ADDR: one echo request, "pong" when answered.
func ping(args []string) error {
	c, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer c.Close()
	dst, err := net.ResolveIPAddr("ip4", args[0])
	if err != nil {
		return err
	}
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: []byte("meshswarm")}}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(b, dst); err != nil {
		return classify(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	for buf := make([]byte, 1500); ; {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return classify(err)
		}
		got, err := icmp.ParseMessage(1, buf[:n])
		if err == nil && got.Type == ipv4.ICMPTypeEchoReply && from.String() == dst.String() {
			fmt.Println("pong")
			return nil
		}
	}
}

// hold ADDR FILE-TO-STOP: keeps one connection to an echo server, one line each 50 ms, until the file exists. Prints how
// many lines came back; any error ends it.
func hold(args []string) error {
	c, err := net.DialTimeout("tcp", args[0], timeout)
	if err != nil {
		return classify(err)
	}
	defer c.Close()
	fmt.Println("holding", c.RemoteAddr())
	r := bufio.NewReader(c)
	for i := 0; ; i++ {
		if _, err := os.Stat(args[1]); err == nil {
			fmt.Println("held", i)
			return nil
		}
		want := strconv.Itoa(i) + "\n"
		// A restarted agent may take a while: retransmissions back off, the connection must not break.
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(c, want); err != nil {
			return fmt.Errorf("broken after %d lines: %w", i, err)
		}
		got, err := r.ReadString('\n')
		if err != nil || got != want {
			return fmt.Errorf("broken after %d lines: %q %w", i, got, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// load RATE WORKERS new|keep URL…: asks the URLs, each time over a new connection or over kept ones, until standard input
// ends. Prints a load.Report.
func offer(args []string) error {
	rate, err1 := strconv.Atoi(args[0])
	workers, err2 := strconv.Atoi(args[1])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	r := load.Run(ctx, load.Config{URLs: args[3:], Rate: rate, Workers: workers, KeepAlive: args[2] == "keep"})
	return json.NewEncoder(os.Stdout).Encode(r)
}

// fail CODE [AFTER] exits with a code, after a while if asked.
func fail(args []string) error {
	code, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if len(args) > 1 {
		after, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		time.Sleep(after)
	}
	fmt.Println("failing as asked")
	os.Exit(code)
	return nil
}

// healthy FILE: a health check that passes while the file does not exist.
func healthy(args []string) error {
	if _, err := os.Stat(args[0]); err == nil {
		return errors.New("unhealthy as asked")
	}
	return nil
}
