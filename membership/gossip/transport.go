package gossip

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Network is what packets and streams pass over. worker/disturb has one that can be cut.
type Network interface {
	// IsCut says whether nothing passes now: packets are dropped.
	IsCut() bool
	// Dial connects over it, and waits while it is cut.
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	// Conn puts an accepted connection onto it.
	Conn(net.Conn) net.Conn
}

// transport is memberlist's own over a Network.
type transport struct {
	*memberlist.NetTransport
	over    Network
	packets chan *memberlist.Packet
	streams chan net.Conn
	ending  chan struct{} // what comes from now on is dropped
	ended   chan struct{} // nothing comes any more
	done    chan struct{} // carry has ended
	end     sync.Once
}

func newTransport(plain *memberlist.NetTransport, over Network) *transport {
	t := &transport{NetTransport: plain, over: over, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		ending: make(chan struct{}), ended: make(chan struct{}), done: make(chan struct{})}
	go t.carry()
	return t
}

// carry passes on what comes in, until Shutdown.
func (t *transport) carry() {
	defer close(t.done)
	for {
		select {
		case p := <-t.NetTransport.PacketCh():
			if t.over.IsCut() {
				continue
			}
			select {
			case t.packets <- p:
			case <-t.ending:
			}
		case c := <-t.NetTransport.StreamCh():
			select {
			case t.streams <- t.over.Conn(c):
			case <-t.ending:
				_ = c.Close()
			}
		case <-t.ended:
			return
		}
	}
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if t.over.IsCut() {
		return time.Now(), nil
	}
	return t.NetTransport.WriteToAddress(b, a)
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.over.Dial(ctx, "tcp", a.Addr)
}

// Shutdown gives up the address. What has come need not be taken. It may be called again.
func (t *transport) Shutdown() (err error) {
	t.end.Do(func() {
		close(t.ending)
		err = t.NetTransport.Shutdown()
		close(t.ended)
	})
	<-t.done
	return err
}
