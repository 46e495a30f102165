package disturb

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair is a connection over a network of its own, from its far end's view untouched.
func pair(t *testing.T, n *Network) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- n.Conn(c)
	}()
	far, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near = <-accepted
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

func TestWhatIsCutPassesLater(t *testing.T) {
	var n Network
	near, far := pair(t, &n)
	n.Cut(time.Hour)
	if !n.IsCut() {
		t.Fatal("nothing is cut")
	}
	got := make(chan string, 1)
	go func() {
		b := make([]byte, 5)
		if _, err := io.ReadFull(near, b); err != nil {
			t.Error(err)
		}
		got <- string(b)
	}()
	wrote := make(chan error, 1)
	go func() {
		_, err := near.Write([]byte("out"))
		wrote <- err
	}()
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := far.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if k, err := far.Read(make([]byte, 3)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes left a network that is cut: %v", k, err)
	}
	select {
	case s := <-got:
		t.Errorf("%q came over a network that is cut", s)
	case err := <-wrote:
		t.Errorf("a write came back: %v", err)
	default:
	}
	n.Cut(0) // it is over
	if s := <-got; s != "hello" {
		t.Errorf("got %q", s)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if err := far.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := io.ReadFull(far, b); err != nil || string(b) != "out" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestWaitersOfACutNetworkEnd(t *testing.T) {
	var n Network
	near, far := pair(t, &n)
	n.Cut(time.Hour)
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := near.SetDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want that its deadline is exceeded", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v, want that its deadline is exceeded", err)
	}
	if err := near.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := near.Write([]byte("x"))
		ended <- err
	}()
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("write on a closed connection: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Dial(ctx, "tcp", far.LocalAddr().String()); !errors.Is(err, context.Canceled) {
		t.Errorf("dial: %v, want that it is cancelled", err)
	}
	n.Cut(0)
}

// What a slowed network lets pass is counted, not timed: the writes before have taken the time of the ones after.
func TestSlowNetworkQueues(t *testing.T) {
	var n Network
	n.Slow(1000, time.Hour)
	first, over := n.delay(1000)
	second, _ := n.delay(2000)
	if first < 900*time.Millisecond || second < 2900*time.Millisecond {
		t.Errorf("1000 bytes wait %s and 2000 more %s at 1000 bytes a second, want 1 and 3 s", first, second)
	}
	n.Slow(0, time.Hour)
	select {
	case <-over:
	default:
		t.Error("what waited for the old rate still waits")
	}
	if d, _ := n.delay(1 << 30); d != 0 {
		t.Errorf("a network that is not slow any more has %s to wait", d)
	}
}
