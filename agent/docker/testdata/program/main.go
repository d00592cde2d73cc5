// Command program is what the executor's tests run: the node's executable (its sandbox) and the tasks' program in one.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	_ "github.com/docker/docker/client"
	_ "github.com/hashicorp/raft"
	_ "github.com/prometheus/client_golang/prometheus"
	_ "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/meshswarm/meshswarm/agent/sandbox"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("needs a command")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	switch args[0] {
	case "sandbox":
		signal.Reset()
		return sandbox.Main(args[1:])
	case "run":
		<-stop
	case "stubborn":
		select {}
	case "exit":
		code, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		os.Exit(code)
	case "say":
		fmt.Println(args[1])
		<-stop
	case "check": // FILE: healthy while it is there
		_, err := os.Stat(args[1])
		return err
	case "sick": // FILE: healthy until SIGHUP
		if err := os.WriteFile(args[1], nil, 0o600); err != nil {
			return err
		}
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		select {
		case <-hup:
			os.Remove(args[1])
		case <-stop:
			return nil
		}
		<-stop
	case "print": // FILES...
		for _, name := range args[1:] {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Printf("%s", b)
		}
		host, err := os.Hostname()
		fmt.Println("hostname", host, "env", strings.Join(os.Environ(), " "))
		return err
	case "echo": // ADDR
		l, err := net.Listen("tcp", args[1])
		if err != nil {
			return err
		}
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	case "send": // ADDR N
		return send(args[1], args[2])
	default:
		return fmt.Errorf("unknown command %q", args[0])
	}
	return nil
}

func send(addr, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 7 >> 3)
		}
		_, _ = c.Write(b)
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
	fmt.Println("received", n)
	return nil
}
