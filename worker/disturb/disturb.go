// Package disturb is a worker's network, which can be cut and slowed on purpose: what `coordinator chaos partition` and
// `chaos slow` do. While it is cut no byte passes and no connection breaks, as when a cable is pulled: both ends find out
// by their own deadlines, and what is still wanted passes when the cut is over.
package disturb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Network carries a worker's connections. The zero value passes everything. Its methods may be called concurrently.
type Network struct {
	mu      sync.Mutex
	cut     chan struct{} // closed when the cut is over; nil: there is none
	rate    float64       // bytes a second that may be sent; 0: any
	slow    chan struct{} // closed when that rate is over; nil: there is none
	next    time.Time     // the next byte may be sent then
	dialer  net.Dialer
	mending *time.Timer
}

// Cut lets nothing pass for so long, from now.
func (n *Network) Cut(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut != nil {
		n.mending.Reset(d)
		return
	}
	n.cut = make(chan struct{})
	n.mending = time.AfterFunc(d, n.mend)
}

func (n *Network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.cut)
	n.cut = nil
}

// Slow lets so many bytes a second leave, for so long from now.
func (n *Network) Slow(rate float64, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hurry()
	slow := make(chan struct{})
	n.rate, n.slow, n.next = rate, slow, time.Time{}
	time.AfterFunc(d, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.slow == slow { // an older one's end changes nothing
			n.hurry()
		}
	})
}

// hurry ends a rate, and lets what waits for it leave. The caller holds mu.
func (n *Network) hurry() {
	if n.slow != nil {
		close(n.slow)
	}
	n.rate, n.slow = 0, nil
}

// passing is nil while nothing is cut; otherwise it is closed when the cut is over.
func (n *Network) passing() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut
}

// IsCut says whether nothing passes now.
func (n *Network) IsCut() bool { return n.passing() != nil }

// delay is how long the next bytes have to wait, unless over is closed before.
func (n *Network) delay(bytes int) (d time.Duration, over <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rate == 0 {
		return 0, nil
	}
	now := time.Now()
	if n.next.Before(now) {
		n.next = now
	}
	n.next = n.next.Add(time.Duration(float64(bytes) / n.rate * float64(time.Second)))
	return n.next.Sub(now), n.slow
}

// Dial connects over the network.
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if wait := n.passing(); wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
		}
	}
	c, err := n.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return n.Conn(c), nil
}

// Conn goes over the network.
func (n *Network) Conn(c net.Conn) net.Conn {
	return &conn{Conn: c, network: n, closed: make(chan struct{}), read: newDeadline(), write: newDeadline()}
}

type conn struct {
	net.Conn
	network     *Network
	once        sync.Once
	closed      chan struct{}
	read, write *deadline
}

// Read delivers nothing while the network is cut, also not what has come before.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if e := c.pass(c.read); e != nil && err == nil { // it came when the cut was there
		err = e
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.leave(len(b)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// WriteBuffers writes from several places at once.
func (c *conn) WriteBuffers(b *net.Buffers) (int64, error) {
	n := 0
	for _, part := range *b {
		n += len(part)
	}
	if err := c.leave(n); err != nil {
		return 0, err
	}
	return b.WriteTo(c.Conn)
}

// leave waits until so many bytes may be sent.
func (c *conn) leave(bytes int) error {
	if err := c.pass(c.write); err != nil {
		return err
	}
	d, over := c.network.delay(bytes)
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-over:
	case <-c.write.passed():
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return net.ErrClosed
	}
	return nil
}

// pass waits until nothing is cut, the deadline, or the connection's own end.
func (c *conn) pass(d *deadline) error {
	for wait := c.network.passing(); wait != nil; wait = c.network.passing() {
		select {
		case <-wait:
		case <-d.passed():
			return os.ErrDeadlineExceeded
		case <-c.closed:
			return net.ErrClosed
		}
	}
	return nil
}

// SyscallConn is of the socket below, for its options.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no socket: %w", c.Conn, errors.ErrUnsupported)
	}
	return s.SyscallConn()
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return c.Conn.SetDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.read.set(t)
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.write.set(t)
	return c.Conn.SetWriteDeadline(t)
}

// deadline is one direction's, for what does not wait in the kernel.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func newDeadline() *deadline { return &deadline{done: make(chan struct{})} }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // its function runs, or has
	}
	select {
	case <-d.done:
		d.done = make(chan struct{})
	default:
	}
	d.timer = nil
	if t.IsZero() {
		return
	}
	done := d.done
	d.timer = time.AfterFunc(time.Until(t), func() { close(done) })
}
