package probe

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/zerofleet/zerofleet/membership/membershiptest"
)

// long is more than any answer takes here, short is waited out.
const (
	long  = 30 * time.Second
	short = 300 * time.Millisecond
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPing(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	server, client := membershiptest.Pair(t)
	l := listen(t)
	s := &Server{}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(server)), grpc.WaitForHandlers(true))
	s.Register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	at := Target{Addr: l.Addr().String(), ID: "a", Incarnation: 2}
	wants := func(at Target, config *tls.Config, timeout time.Duration, want Finding, words string) {
		t.Helper()
		if r := Ping(t.Context(), at, config, nil, timeout); r.Finding != want || !strings.Contains(r.Detail, words) {
			t.Errorf("got %s (%s), want %s (%s)", r.Finding, r.Detail, want, words)
		}
	}
	wants(at, client, long, Answered, "") // it has not registered yet
	s.Is("a", 2)
	wants(at, client, long, Answered, "")
	s.Is("a", 3)
	wants(at, client, long, Refused, "worker a incarnation 3 is at")
	s.Is("b", 2)
	wants(at, client, long, Refused, "worker b incarnation 2 is at")
	_, stranger := membershiptest.Pair(t) // of another job: it proves nothing about this one's worker
	wants(at, stranger, long, Unclear, "")
	g.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	wants(at, client, long, Refused, "connection refused")

	hangs := listen(t) // its machine takes connections, and nobody reads them, as of a process that is stopped
	defer hangs.Close()
	at.Addr = hangs.Addr().String()
	// Under load this process may be so late itself that it must not say anything.
	for {
		r := Ping(t.Context(), at, client, nil, short)
		if r.Finding == Unclear && strings.Contains(r.Detail, "stood still") {
			continue
		}
		if r.Finding != Silent {
			t.Errorf("got %s (%s), want silent", r.Finding, r.Detail)
		}
		break
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Ping(ended, at, client, nil, long); r.Finding != Unclear {
		t.Errorf("a probe that was given up found %s", r.Finding)
	}
}

// A timeout of the connection itself is the machine's, not the process's.
func TestDialed(t *testing.T) {
	var d net.Dialer
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := d.DialContext(ctx, "tcp", "127.0.0.1:1")
	if r := dialed(err); r.Finding != Unreachable {
		t.Errorf("%v: got %s, want unreachable", err, r.Finding)
	}
	_, err = d.DialContext(t.Context(), "tcp", "not an address")
	if r := dialed(err); r.Finding != Unclear {
		t.Errorf("%v: got %s, want unclear", err, r.Finding)
	}
}
