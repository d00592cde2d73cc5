package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

func (k portKey) String() string { return k.protocol + "/" + strconv.Itoa(int(k.port)) }

// pubPort is a published port with at least one serving backend.
type pubPort struct {
	pub   *publisher
	key   portKey
	pick  picker
	table atomic.Pointer[portTable]

	// Guarded by publisher.mu.
	open bool
	ln   closer
}

func newPubPort(p *publisher, key portKey, table *portTable) *pubPort {
	port := &pubPort{pub: p, key: key}
	port.table.Store(table)
	port.pick.init()
	return port
}

// listen opens the port on the host and serves it. The error says what a person can do about it.
func (p *pubPort) listen() error {
	addr := ":" + strconv.Itoa(int(p.key.port))
	if a := p.pub.run.h.cfg.PublishAddr; a.IsValid() && !a.IsUnspecified() {
		addr = netip.AddrPortFrom(a, p.key.port).String()
	}
	lc := net.ListenConfig{KeepAliveConfig: hostKeepalive, Control: func(network, _ string, c syscall.RawConn) error {
		return controlUserTimeout(network, c)
	}}
	var err error
	if p.key.protocol == "tcp" {
		err = p.listenTCP(&lc, addr)
	} else {
		err = p.listenUDP(&lc, addr)
	}
	return explainListen(p.key, p.pub.run.h.cfg.PublishAddr, err)
}

func (p *pubPort) listenTCP(lc *net.ListenConfig, addr string) error {
	ln, err := lc.Listen(p.pub.run.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	p.ln = ln
	p.pub.run.spawn(func() { p.accept(ln) })
	return nil
}

func (p *pubPort) close() {
	if p.ln != nil {
		_ = p.ln.Close()
	}
}

func (p *pubPort) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !pause(p.pub.run.ctx, acceptPause) {
				return
			}
			continue
		}
		client := duplexOf(c)
		if !p.pub.run.spawn(func() { p.serve(client) }) {
			client.abort()
		}
	}
}

// controlUserTimeout is the Control of the host's TCP sockets; accepted connections inherit it from their listener.
func controlUserTimeout(network string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}

// explainListen adds to an error of listen who is in the way, or what is needed.
func explainListen(key portKey, at netip.Addr, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		if who := portHolder(key, at); who != "" {
			return fmt.Errorf("port %d: address already in use by %s", key.port, who)
		}
		return fmt.Errorf("port %d: address already in use", key.port)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		alt := int(key.port) + 8000
		return fmt.Errorf("port %d needs privileges: publish %d, or lower net.ipv4.ip_unprivileged_port_start", key.port, alt)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("port %d: this host has no such address to publish on: %w", key.port, err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("port %d: too many open files: raise the limit (ulimit -n) or publish fewer ports: %w", key.port, err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("port %d: %w", key.port, context.Canceled)
	}
	return fmt.Errorf("port %d: %w", key.port, err)
}
