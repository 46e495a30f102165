package gossip

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/zerofleet/zerofleet/membership/membershiptest"
)

// patience bounds every wait.
const patience = 30 * time.Second

// member is a node and what it has been told of others.
type member struct {
	node *Node
	addr string

	mu   sync.Mutex
	lost map[string]bool // by name; absent: never heard of

	end sync.Once
}

// close ends it without a word.
func (m *member) close(t *testing.T) {
	t.Helper()
	m.end.Do(func() {
		if err := m.node.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (m *member) is(name string, lost bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, known := m.lost[name]
	return known && was == lost
}

func start(t *testing.T, name string, key byte, log *slog.Logger, seeds ...string) *member {
	t.Helper()
	return startOver(t, nil, name, key, log, seeds...)
}

func startOver(t *testing.T, over Network, name string, key byte, log *slog.Logger, seeds ...string) *member {
	t.Helper()
	ear, err := Listen("127.0.0.1", over, log)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{addr: ear.Addr(), lost: map[string]bool{}}
	m.node, err = ear.Start(Options{Name: name, Key: bytes.Repeat([]byte{key}, KeyBytes), Seeds: seeds, Changed: func(name string, lost bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.lost[name] = lost
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.close(t) })
	return m
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	membershiptest.Await(t, patience, what, ok)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func leakCheck(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { // memberlist does not wait for a probe that is under way: it ends with its interval
		err := goleak.Find() // tries again for less than that
		for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
			err = goleak.Find()
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAnAbruptEndIsSeenByTheOthers(t *testing.T) {
	leakCheck(t)
	a := start(t, "a", 1, quiet())
	b := start(t, "b", 1, quiet(), a.addr)
	c := start(t, "c", 1, quiet(), a.addr)
	await(t, "all to know all", func() bool {
		return a.is("b", false) && a.is("c", false) && b.is("a", false) && b.is("c", false) && c.is("a", false) && c.is("b", false)
	})
	c.close(t)
	await(t, "both others to miss it", func() bool { return a.is("c", true) && b.is("c", true) })
	if !a.is("b", false) || !b.is("a", false) {
		t.Error("one that lives is missed")
	}
	// Another life of it has another name, and comes back through a seed that is said later.
	again := start(t, "c2", 1, quiet())
	again.node.Join([]string{b.addr})
	await(t, "its next life", func() bool { return a.is("c2", false) && b.is("c2", false) && again.is("a", false) })
}

// collect is a log that can be read.
type collect struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (c *collect) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(b)
}

func (c *collect) has(words string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.b.String(), words)
}

func TestAnotherKeyIsRefused(t *testing.T) {
	leakCheck(t)
	log := &collect{}
	a := start(t, "a", 1, slog.New(slog.NewTextHandler(log, nil)))
	stranger := start(t, "stranger", 2, quiet(), a.addr)
	await(t, "its knock", func() bool { return log.has("no installed keys could decrypt the message") })
	b := start(t, "b", 1, quiet(), a.addr)
	await(t, "one with the key", func() bool { return a.is("b", false) && b.is("a", false) })
	if a.is("stranger", false) || b.is("stranger", false) || stranger.is("a", false) {
		t.Error("a node with another key got in")
	}
}

func TestWhatIsWrongIsRefused(t *testing.T) {
	leakCheck(t)
	if _, err := Listen("host.example", nil, quiet()); err == nil || !strings.Contains(err.Error(), "want an IP address") {
		t.Errorf("a name is listened at: %v", err)
	}
	ear, err := Listen("127.0.0.1", nil, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ear.Start(Options{Name: "a", Key: []byte("short")}); err == nil || !strings.Contains(err.Error(), "a key of 5 bytes, want 32") {
		t.Errorf("a short key is taken: %v", err)
	}
}
