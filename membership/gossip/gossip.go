// Package gossip is the fast failure detector between a job's workers: hashicorp/memberlist (SWIM with Lifeguard's
// extensions), encrypted with a key that the coordinator hands out.
//
//	ear, err := gossip.Listen(host, nil, log)
//	// register with ear.Addr(), learn key and seeds
//	node, err := ear.Start(gossip.Options{Name: ..., Key: key, Seeds: seeds, Changed: see})
//	defer node.Close()
//
// It only suspects. Who is suspected is looked after by those who see it (membership/probe), and the coordinator decides:
// packets are lost, and a loaded machine answers late, so that nobody may lose his place because of what is said here.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// KeyBytes is the length of a key: AES-256.
const KeyBytes = 32

const (
	// probeInterval is between two probes that a node sends, each to one other node in turn, and probeTimeout how long the
	// first try of one waits: then the node is asked over TCP, and through others, until the interval is over. Under load
	// memberlist stretches the interval by its own health score, up to eightfold.
	probeInterval = 500 * time.Millisecond
	probeTimeout  = 200 * time.Millisecond
	// suspicionMult times probeInterval is how long a node that has not answered may refute that it is suspected. Memberlist
	// itself recommends 4; here being wrong costs a probe, not a member.
	suspicionMult = 2
	// streamTimeout bounds exchanges over TCP: with a process that hangs they take all of it.
	streamTimeout = 2 * time.Second
	// rejoin is how often nodes that should be there and are not are called.
	rejoin = 5 * time.Second
	// bindTries bounds how often a port that is free for TCP may be taken for UDP.
	bindTries = 10
)

// Listener is an address, UDP and TCP, that nobody is answered at yet.
type Listener struct {
	transport memberlist.NodeAwareTransport
	addr      string
	log       *slog.Logger
}

// Listen takes a free port of a host's address, which must be one of this machine. What comes and goes there passes over
// a network; nil is the plain one.
func Listen(host string, over Network, log *slog.Logger) (*Listener, error) {
	ip := net.ParseIP(host)
	if ip == nil {
		return nil, fmt.Errorf("listen for gossip on %q: want an IP address", host)
	}
	var errs []error
	for range bindTries {
		t, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{host}, Logger: adapt(log)})
		if err == nil {
			l := &Listener{transport: t, addr: net.JoinHostPort(ip.String(), strconv.Itoa(t.GetAutoBindPort())), log: log}
			if over != nil {
				l.transport = newTransport(t, over)
			}
			return l, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("listen for gossip on %s: %w", host, errors.Join(errs...))
}

// Addr is the address that was bound, host:port.
func (l *Listener) Addr() string { return l.addr }

// Close gives up an address that was not started.
func (l *Listener) Close() error {
	closed := make(chan error, 1)
	go func() { closed <- l.transport.Shutdown() }()
	for { // what has arrived is waited for to be taken
		select {
		case <-l.transport.PacketCh():
		case c := <-l.transport.StreamCh():
			_ = c.Close()
		case err := <-closed:
			return err
		}
	}
}

// Options say who a node is.
type Options struct {
	Name  string   // unique among all that ever were
	Key   []byte   // KeyBytes; all nodes have the same
	Seeds []string // addresses of nodes that may live
	// Changed is told when another node is lost, and when it is there (again). It is called under memberlist's lock: it must
	// return at once, and call nothing of the Node.
	Changed func(name string, lost bool)
}

// Node takes part until Close.
type Node struct {
	list *memberlist.Memberlist
	log  *slog.Logger
	stop context.CancelFunc
	done chan struct{}
	wake chan struct{} // holds one token when seeds have changed

	living *living

	mu    sync.Mutex
	seeds []string
}

// living are the addresses of the other nodes that are there, by name. Memberlist's own list is of nodes that it changes
// meanwhile.
type living struct {
	mu   sync.Mutex
	addr map[string]string
}

func (l *living) put(name, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addr[name] = addr
}

func (l *living) remove(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.addr, name)
}

func (l *living) addresses() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := map[string]bool{}
	for _, a := range l.addr {
		there[a] = true
	}
	return there
}

// Start takes part, under the listener's address, which it owns from now on, also when it fails.
func (l *Listener) Start(o Options) (*Node, error) {
	if len(o.Key) != KeyBytes {
		return nil, errors.Join(fmt.Errorf("start gossip: a key of %d bytes, want %d", len(o.Key), KeyBytes), l.Close())
	}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Transport, c.SecretKey = o.Name, l.transport, o.Key
	host, port, err := net.SplitHostPort(l.addr)
	if err == nil {
		c.BindAddr, c.AdvertiseAddr = host, host
		c.AdvertisePort, err = strconv.Atoi(port)
		c.BindPort = c.AdvertisePort
	}
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult, c.TCPTimeout = probeInterval, probeTimeout, suspicionMult, streamTimeout
	c.EnableCompression = false // messages of some bytes
	c.Logger = adapt(l.log)
	there := &living{addr: map[string]string{}}
	c.Events = events{o.Name, there, o.Changed}
	var list *memberlist.Memberlist
	if err == nil {
		list, err = memberlist.Create(c)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start gossip: %w", err), l.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &Node{list: list, log: l.log, living: there, stop: stop, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	n.Join(o.Seeds)
	go n.join(ctx)
	return n, nil
}

// Join says which addresses should be there now, in place of those that were said before. Who is not is called until it is.
// It does not wait.
func (n *Node) Join(addrs []string) {
	n.mu.Lock()
	n.seeds = slices.Clone(addrs)
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Health is 0 for a node that runs as it should, and grows, to at most 7, with signs that this process runs late: whoever
// judges others by the clock gives them that much more time.
func (n *Node) Health() int { return n.list.GetHealthScore() }

// Close leaves without a word: peers that still need this worker are to look after it.
func (n *Node) Close() error {
	n.stop()
	<-n.done
	if err := n.list.Shutdown(); err != nil {
		return fmt.Errorf("end gossip: %w", err)
	}
	return nil
}

func (n *Node) join(ctx context.Context) {
	defer close(n.done)
	again := time.NewTicker(rejoin)
	defer again.Stop()
	for {
		for _, addr := range n.absent() {
			if ctx.Err() != nil {
				return
			}
			if _, err := n.list.Join([]string{addr}); err != nil {
				n.log.Debug("gossip: not joined", "addr", addr, "error", err)
			}
		}
		select {
		case <-n.wake:
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// absent are the seeds that are not among the living nodes.
func (n *Node) absent() []string {
	there := n.living.addresses()
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []string
	for _, s := range n.seeds {
		if !there[s] {
			list = append(list, s)
		}
	}
	return list
}

// events passes on what memberlist says of other nodes.
type events struct {
	self    string
	living  *living
	changed func(name string, lost bool)
}

func (e events) tell(n *memberlist.Node, lost bool) {
	if n.Name != e.self {
		if lost {
			e.living.remove(n.Name)
		} else {
			e.living.put(n.Name, n.Address())
		}
		e.changed(n.Name, lost)
	}
}

func (e events) NotifyJoin(n *memberlist.Node)  { e.tell(n, false) }
func (e events) NotifyLeave(n *memberlist.Node) { e.tell(n, true) }
func (e events) NotifyUpdate(*memberlist.Node)  {}

// adapt gives memberlist a logger that writes to l. Its lines begin with a level: "[WARN] memberlist: ...".
func adapt(l *slog.Logger) *log.Logger { return log.New(lines{l}, "", 0) }

type lines struct{ log *slog.Logger }

func (w lines) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug // what it finds, others log as they act on it
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, text, ok := strings.Cut(rest, "] "); ok {
			line = text
			if name == "ERR" || name == "WARN" {
				level = slog.LevelInfo
			}
		}
	}
	w.log.Log(context.Background(), level, line)
	return len(b), nil
}
