package spot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a metadata service on connections in memory, so that within a synctest bubble time passes while it is waited
// for. It counts the requests of each second.
func serve(t *testing.T, h http.Handler) (Options, *requests) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	seen := &requests{}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.add(r)
		h.ServeHTTP(w, r)
	})}}
	s.Start()
	transport := &http.Transport{DialContext: l.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.Close()
	})
	return Options{Transport: transport, Endpoint: "http://metadata"}, seen
}

type requests struct {
	mu    sync.Mutex
	lines []string
	at    []time.Time
}

func (s *requests) add(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, r.Method+" "+r.URL.RequestURI())
	s.at = append(s.at, time.Now())
}

func (s *requests) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

// checkRate fails the test if there have been more requests than a minute has seconds, in any minute.
func (s *requests) checkRate(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	const most = 63 // three probes at the start
	for i := most; i < len(s.at); i++ {
		if s.at[i].Sub(s.at[i-most]) < time.Minute {
			t.Fatalf("more than %d requests in the minute from %s", most, s.at[i-most])
		}
	}
}

// pipes is a listener whose connections are net.Pipes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// watching is a Watch in a goroutine.
type watching struct {
	t      *testing.T
	stop   context.CancelFunc
	done   chan error
	log    *safeBuffer
	mu     sync.Mutex
	queued []Notice
}

func watch(t *testing.T, o Options) *watching {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &watching{t: t, stop: stop, done: make(chan error, 1), log: &safeBuffer{}}
	o.Log = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	go func() {
		w.done <- Watch(ctx, o, func(n Notice) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.queued = append(w.queued, n)
		})
	}()
	return w
}

// after lets d pass within a bubble and returns the notices of that time.
func (w *watching) after(d time.Duration) []Notice {
	w.t.Helper()
	<-time.After(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.queued
	w.queued = nil
	return got
}

func (w *watching) want(d time.Duration, want ...Notice) {
	w.t.Helper()
	got := w.after(d)
	if len(got) != len(want) {
		w.t.Fatalf("got %d notices %v, want %d %v", len(got), got, len(want), want)
	}
	for i := range want {
		g, n := got[i], want[i]
		if !g.Deadline.Equal(n.Deadline) || n.Why != "" && g.Why != n.Why || g.Why == "" || g.ID == "" ||
			g.Provider != n.Provider || g.Kind != n.Kind || g.Shared != n.Shared || n.ID != "" && g.ID != n.ID {
			w.t.Errorf("notice %d: got %+v, want %+v", i, g, n)
		}
	}
}

// end stops Watch, which must return before any time passes.
func (w *watching) end() {
	w.t.Helper()
	begun := time.Now()
	w.stop()
	if err := <-w.done; err != nil {
		w.t.Errorf("Watch: %v, want nil", err)
	}
	if d := time.Since(begun); d > answerTimeout-time.Second {
		w.t.Errorf("Watch returned %s after its context had ended", d)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) count(part string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.b.String(), part)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// switchable is a handler that tests change while it serves.
type switchable struct {
	mu sync.Mutex
	h  http.HandlerFunc
}

func (s *switchable) set(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h = h
}

func (s *switchable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.h
	s.mu.Unlock()
	h(w, r)
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Provider: "ibm"}, `watch for notices: provider="ibm": want aws, gcp, azure, file, none or auto`},
		{Options{Provider: File}, `watch for notices: provider=file file="": want a path`},
		{Options{Grace: -1}, "watch for notices: grace=-1ns: want 0 or more"},
		{Options{Endpoint: "169.254.169.254"}, `watch for notices: endpoint="169.254.169.254": want an http URL`},
		{Options{Endpoint: "ftp://host"}, `watch for notices: endpoint="ftp://host": want an http URL`},
	} {
		if err := Watch(t.Context(), c.o, nil); err == nil || err.Error() != c.want {
			t.Errorf("%+v: got %v, want %s", c.o, err, c.want)
		}
	}
}

// The cloud is the one whose metadata service answers as documented.
func TestAuto(t *testing.T) {
	for name, c := range map[string]struct {
		h    http.Handler
		want Provider // of the notice that the service has; None: it has none
	}{
		"aws":              {nil, AWS}, // nil: made in the bubble
		"gcp":              {nil, GCP},
		"azure":            {nil, Azure},
		"nothing":          {http.NotFoundHandler(), None},
		"a page for all":   {page(200, "<html><body>Welcome</body></html>"), None},
		"a token for all":  {page(200, "AQAAAA"), None},
		"errors":           {page(500, "no"), None},
		"a login redirect": {http.RedirectHandler("http://metadata/login", http.StatusFound), None},
		"silence":          {http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), None},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if c.h == nil {
					c.h = preempted(c.want)
				}
				o, seen := serve(t, c.h)
				w := watch(t, o)
				got := w.after(time.Minute)
				switch {
				case name == "a token for all":
					// It is a token, and a name too; what is no document of events is still no notice.
					if len(got) != 0 {
						t.Errorf("got %v", got)
					}
				case c.want == None:
					if n := seen.count(""); len(got) != 0 || n != 3 {
						t.Errorf("got %v after %d requests, want none after 3 probes", got, n)
					}
					if w.log.String() != "" {
						t.Errorf("logged %s", w.log)
					}
				case len(got) != 1 || got[0].Provider != c.want:
					t.Errorf("got %v, want one of %s", got, c.want)
				}
				seen.checkRate(t)
				w.end()
			})
		})
	}
}

// preempted is a cloud's metadata service that has a notice.
func preempted(p Provider) http.Handler {
	switch p {
	case AWS:
		return &awsMock{action: `{"action":"terminate","time":"2000-01-01T00:22:00Z"}`}
	case GCP:
		return newGCPMock("TRUE", "NONE")
	default:
		return &azureMock{name: "worker_0", doc: azureDoc(1, azureEvent("a", "Preempt", "Scheduled", "", "worker_0"))}
	}
}

func page(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
}

func TestNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, seen := serve(t, http.NotFoundHandler())
		o.Provider, o.File = None, os.Args[0]
		w := watch(t, o)
		w.want(time.Hour)
		w.end()
		if n := seen.count(""); n != 0 {
			t.Errorf("%d requests, want none", n)
		}
	})
}

// Whatever a metadata service does wrong is logged once, never a notice, and over as soon as the service is well.
func TestBroken(t *testing.T) {
	broken := map[string]http.Handler{
		"html":            page(200, "<!DOCTYPE html><html><body>It works</body></html>"),
		"empty":           page(200, ""),
		"null":            page(200, "null"),
		"wrong json":      page(200, `{"action": 7, "noticeTime": [], "Events": {}}`),
		"array":           page(200, `[1, 2]`),
		"other json":      page(200, `{"action":"explode","noticeTime":"soon","DocumentIncarnation":"x"}`),
		"half json":       page(200, `{"action":"termin`),
		"server error":    page(500, "sorry"),
		"teapot":          page(418, ""),
		"too many":        page(429, "slow down"),
		"forbidden":       page(403, ""),
		"not modified":    page(304, ""),
		"redirect":        http.RedirectHandler("http://elsewhere/latest", http.StatusTemporaryRedirect),
		"hanging":         http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		"hanging in body": http.HandlerFunc(hangInBody),
		"cut off": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			panic(http.ErrAbortHandler)
		}),
		"endless":          endless(t),
		"right but unsure": page(200, "TRUE"), // without Metadata-Flavor
	}
	for name, h := range broken {
		for _, provider := range []Provider{AWS, GCP, Azure} {
			t.Run(fmt.Sprint(provider, " ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					service := &switchable{h: h.ServeHTTP}
					o, seen := serve(t, service)
					o.Provider = provider
					w := watch(t, o)
					w.want(3 * time.Minute)
					things := map[Provider]int{AWS: 1, GCP: 2, Azure: 1}[provider]
					if n := w.log.count("level=WARN"); n != things {
						t.Errorf("%d warnings in 3 minutes, want %d:\n%s", n, things, w.log)
					}
					if n := seen.count(""); n < 5 {
						t.Errorf("%d requests in 3 minutes: given up", n)
					}
					seen.checkRate(t)
					service.set(preempted(provider).ServeHTTP)
					again := 2 * maxRetryWait
					if strings.HasPrefix(name, "hanging") {
						again = azureFirstTimeout + maxRetryWait // the longest that a request may hang
					}
					if got := w.after(again); len(got) != 1 || got[0].Kind != Preempt {
						t.Errorf("got %v when well, want one", got)
					}
					if n := w.log.count("watching for notices again"); n != things {
						t.Errorf("%d times well again, want %d:\n%s", n, things, w.log)
					}
					w.end()
				})
			})
		}
	}
}

func hangInBody(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Metadata-Flavor", "Google")
	_, _ = w.Write([]byte(`{"action":`))
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// endless is a body of a gigabyte, of which the reader must take little.
func endless(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		block := bytes.Repeat([]byte(" "), 64<<10)
		for i := range 16 << 10 {
			if _, err := w.Write(block); err != nil {
				return
			}
			if i > 8 {
				t.Error("more than 512 KiB of an endless body were read")
				return
			}
		}
	}
}

// Another fault is another line.
func TestFaultsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := &switchable{h: page(500, "").ServeHTTP}
		o, _ := serve(t, service)
		o.Provider = AWS
		w := watch(t, o)
		w.want(5 * time.Minute)
		service.set(page(503, "").ServeHTTP)
		w.want(5 * time.Minute)
		if n := w.log.count("level=WARN"); n != 2 {
			t.Errorf("%d warnings, want 2:\n%s", n, w.log)
		}
		w.end()
	})
}

// On real connections redirects are not followed and no proxy is asked.
func TestStaysOnTheMachine(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked elsewhere") }))
	defer elsewhere.Close()
	t.Setenv("HTTP_PROXY", elsewhere.URL)
	t.Setenv("http_proxy", elsewhere.URL)
	service := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer service.Close()
	w, err := newWatcher(Options{Endpoint: service.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.client.CloseIdleConnections()
	got, err := w.ask(t.Context(), request{path: "/latest"})
	if err != nil || got.status != http.StatusFound {
		t.Errorf("got %+v, %v, want the redirect itself", got, err)
	}
	// The standard transport asks no proxy for a loopback address anyway.
	if w.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("the transport has a proxy")
	}
}

// On real connections the end comes at once while a server hangs.
func TestEndsWhileHanging(t *testing.T) {
	asked := make(chan struct{}, 3)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer hanging.Close()
	for _, p := range []Provider{AWS, GCP, Azure, Auto} {
		w := watch(t, Options{Provider: p, Endpoint: hanging.URL})
		<-asked
		w.end()
		for { // what else it had asked at once
			select {
			case <-asked:
				continue
			default:
			}
			break
		}
	}
}

func TestRefusedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Provider: AWS, Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })}
		w := watch(t, o)
		w.want(10 * time.Minute)
		if n := w.log.count("level=WARN"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, w.log)
		}
		w.end()
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
