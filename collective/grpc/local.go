package grpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// localSocket is where processes of this host come for shared memory: a name in the network namespace, without a file.
type localSocket struct {
	name string
	lis  *net.UnixListener
	ep   *Endpoint
	done chan struct{}
}

func listenLocal(ep *Endpoint) (*localSocket, error) {
	s := &localSocket{name: "zerofleet-" + rand.Text(), ep: ep, done: make(chan struct{})}
	var err error
	if s.lis, err = net.ListenUnix("unix", &net.UnixAddr{Name: "@" + s.name, Net: "unix"}); err != nil {
		return nil, err
	}
	go s.serve()
	return s, nil
}

func (s *localSocket) serve() {
	defer close(s.done)
	for {
		c, err := s.lis.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.ep.log.Error("shared memory's socket stopped", "err", err)
			}
			return
		}
		// One after the other: a peer says what it wants at once, and nobody else knows the name.
		if err := s.admit(c); err != nil {
			s.ep.log.Warn("a local connection was refused", "err", err)
			_ = c.Close()
		}
	}
}

// localPatience is how long a process of this host may take to say who it is, while others wait.
const localPatience = time.Second

func (s *localSocket) admit(c *net.UnixConn) error {
	uid, err := peerUser(c)
	if err != nil {
		return err
	}
	if uid != os.Getuid() {
		return fmt.Errorf("a process of user %d: this is user %d's", uid, os.Getuid())
	}
	return s.ep.admitLane(c, c, true, localPatience)
}

func (s *localSocket) close() {
	_ = s.lis.Close()
	<-s.done
}

// dialLocal connects to a peer's socket on this host. It fails at once where there is none.
func (ep *Endpoint) dialLocal(ctx context.Context, name string, use int) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", "@"+name)
	if err != nil {
		return nil, err
	}
	if use == useMemory {
		return c, nil
	}
	return ep.wrap(c), nil
}

// peerUser is the user of the process at the other end.
func peerUser(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var got error
	if err := raw.Control(func(fd uintptr) { cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if got != nil {
		return 0, fmt.Errorf("who is there: %w", got)
	}
	return int(cred.Uid), nil
}
