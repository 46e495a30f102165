package gossip

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/zerofleet/zerofleet/worker/disturb"
)

// marked is a network that can be cut, says when it is asked whether it is, and marks its connections.
type marked struct {
	cut   atomic.Bool
	asked chan struct{}
}

type markedConn struct{ net.Conn }

func (m *marked) IsCut() bool {
	cut := m.cut.Load()
	m.asked <- struct{}{}
	return cut
}

func (m *marked) Conn(c net.Conn) net.Conn { return markedConn{c} }

func (m *marked) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	return markedConn{c}, err
}

func bare(t *testing.T) (tr *memberlist.NetTransport, addr string) {
	t.Helper()
	tr, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{"127.0.0.1"}, Logger: adapt(quiet())})
	if err != nil {
		t.Fatal(err)
	}
	return tr, net.JoinHostPort("127.0.0.1", strconv.Itoa(tr.GetAutoBindPort()))
}

// Packets that are sent or come while the network is cut are not there when it is over; streams go over it both ways.
func TestTransportGoesOverTheNetwork(t *testing.T) {
	leakCheck(t)
	far, farAddr := bare(t)
	plain, addr := bare(t)
	over := &marked{asked: make(chan struct{}, 1)}
	near := newTransport(plain, over)
	send := func(from memberlist.Transport, text, to string) {
		t.Helper()
		if _, err := from.WriteTo([]byte(text), to); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(what string) {
		t.Helper()
		select {
		case <-over.asked:
		case <-time.After(patience):
			t.Fatalf("nobody asked whether the network is cut, of what is %s", what)
		}
	}
	wants := func(from memberlist.Transport, text string) {
		t.Helper()
		select {
		case p := <-from.PacketCh():
			if string(p.Buf) != text {
				t.Errorf("got %q, want %q", p.Buf, text)
			}
		case <-time.After(patience):
			t.Fatalf("%q does not come", text)
		}
	}
	over.cut.Store(true)
	send(near, "out while cut", farAddr)
	ask("sent")
	send(far, "in while cut", addr)
	ask("come")
	over.cut.Store(false)
	send(near, "out", farAddr)
	ask("sent")
	wants(far, "out")
	send(far, "in", addr)
	ask("come")
	wants(near, "in")

	out, err := near.DialTimeout(farAddr, patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := out.(markedConn); !ok {
		t.Errorf("it dials past the network: %T", out)
	}
	in, err := far.DialTimeout(addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	came := <-near.StreamCh()
	if _, ok := came.(markedConn); !ok {
		t.Errorf("a stream came past the network: %T", came)
	}
	for _, c := range []net.Conn{out, in, came, <-far.StreamCh()} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, tr := range []memberlist.NodeAwareTransport{near, near, far} { // twice does no harm
		if err := (&Listener{transport: tr}).Close(); err != nil { // which takes what is left
			t.Error(err)
		}
	}
}

// A node whose network is cut is lost by the others, loses them, and finds them again.
func TestACutNodeIsLostAndComesBack(t *testing.T) {
	leakCheck(t)
	var network disturb.Network
	a := start(t, "a", 1, quiet())
	b := start(t, "b", 1, quiet(), a.addr)
	c := startOver(t, &network, "c", 1, quiet(), a.addr)
	for _, m := range []*member{a, b, c} { // as members of a generation do
		m.node.Join([]string{a.addr, b.addr, c.addr})
	}
	await(t, "all to know all", func() bool {
		return a.is("b", false) && a.is("c", false) && b.is("c", false) && c.is("a", false) && c.is("b", false)
	})
	network.Cut(time.Hour)
	await(t, "the loss on both sides", func() bool {
		return a.is("c", true) && b.is("c", true) && c.is("a", true) && c.is("b", true)
	})
	if a.is("b", true) || b.is("a", true) {
		t.Error("those that nothing stands between have lost each other")
	}
	network.Cut(0)
	await(t, "its return", func() bool {
		return a.is("c", false) && b.is("c", false) && c.is("a", false) && c.is("b", false)
	})
}
