// Command web is the example service: a small web server that says who answered and counts visits in redis.
//
//	GET /         "hello from HOST, you are ADDRESS, visit N"
//	GET /name     the host name alone
//	GET /healthz  "ok"
//	GET /slow?for=5s  sends a byte every 100 ms for that long
//
// It listens on $PORT (8080), asks redis at $REDIS (redis:6379; empty: no counter) in plain RESP over TCP, and echoes
// UDP datagrams on the same port with its name in front. SIGTERM lets running requests end.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "health" {
		os.Exit(health())
	}
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	w := &web{name: name, redis: env("REDIS", "redis:6379")}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", w.hello)
	mux.HandleFunc("GET /name", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, w.name) })
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, "ok") })
	mux.HandleFunc("GET /slow", w.slow)

	port := env("PORT", "8080")
	packets, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go w.echo(packets)
	server := &http.Server{Addr: ":" + port, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(ended)
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	})
	log.Printf("%s listens on port %s, redis at %q", name, port, w.redis)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ended // ListenAndServe returns before the running requests have ended
	return nil
}

// health is what the image's healthcheck runs: no shell and no other program is in it.
func health() int {
	client := http.Client{Timeout: 2 * time.Second}
	answer, err := client.Get("http://127.0.0.1:" + env("PORT", "8080") + "/healthz")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return 1
	}
	return 0
}

type web struct{ name, redis string }

func (w *web) hello(out http.ResponseWriter, r *http.Request) {
	visits := "not counted"
	if w.redis != "" {
		n, err := w.count(r.Context())
		if err != nil {
			http.Error(out, fmt.Sprintf("%s: count visit: %v", w.name, err), http.StatusBadGateway)
			return
		}
		visits = n
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	fmt.Fprintf(out, "hello from %s, you are %s, visit %s\n", w.name, client, visits)
}

// count increments the counter "visits": RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/
func (w *web) count(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", w.redis)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	if _, err := conn.Write([]byte("*2\r\n$4\r\nINCR\r\n$6\r\nvisits\r\n")); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	if n, ok := strings.CutPrefix(line, ":"); ok {
		return n, nil
	}
	return "", fmt.Errorf("redis says %q", line)
}

func (w *web) slow(out http.ResponseWriter, r *http.Request) {
	length, err := time.ParseDuration(r.URL.Query().Get("for"))
	if err != nil || length < 0 || length > time.Hour {
		http.Error(out, "write ?for=5s, at most 1h", http.StatusBadRequest)
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.After(length)
	for {
		fmt.Fprint(out, ".")
		if err := http.NewResponseController(out).Flush(); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			fmt.Fprintln(out)
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (w *web) echo(packets net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = packets.WriteTo([]byte(w.name+": "+string(buf[:n])), from)
	}
}

func env(key, otherwise string) string {
	if v, ok := os.LookupEnv(key); ok {
		return v
	}
	return otherwise
}
