// Package spot tells a worker that its machine is going away. Watch asks the cloud's metadata service, or looks for a
// file, until its context ends, and calls back once per notice; Acknowledge tells the cloud that the machine may go now.
//
// What is asked of whom, and how often while all is well:
//
//	aws    instance metadata, version 2       spot/instance-action and events/recommendations/rebalance, every 5 s
//	gcp    metadata server                    instance/preempted and instance/maintenance-event, held open until they change
//	azure  Scheduled Events                   every second
//	file   a path, for other clouds and tests  twice a second
//
// A metadata service is not trusted: answers are read up to a bound, redirects are refused, no proxy is used, and
// an answer that is not what the vendor documents is never a notice. It is logged when it begins and when it changes, and
// asked again with growing waits, at most about once a second.
package spot

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Provider is who gives the notices.
type Provider string

const (
	AWS   Provider = "aws"
	GCP   Provider = "gcp"
	Azure Provider = "azure"
	File  Provider = "file"
	None  Provider = "none"
	Auto  Provider = "auto" // the cloud whose metadata service answers; none if there is none
)

// Kind is what will happen to the machine.
type Kind string

const (
	// Preempt: it is taken away for good.
	Preempt Kind = "preempt"
	// Rebalance: the cloud may take it soon. Nothing is decided, and nothing happens at the deadline.
	Rebalance Kind = "rebalance"
	// Maintenance: it stops and may come back; what is in its memory is lost.
	Maintenance Kind = "maintenance"
	// Freeze: it pauses for seconds and goes on with its memory: there is nothing to hand over.
	Freeze Kind = "freeze"
)

// Notice is a warning about this machine.
type Notice struct {
	Provider Provider
	Kind     Kind
	Deadline time.Time // never zero, may be days ahead; it has passed when the machine may go at any moment
	Why      string    // one line, from the vendor where it says something
	ID       string    // tells the notices of one Watch apart; on Azure the event's
	Shared   bool      // the same event takes other machines too (Azure)
}

// Options says where to look.
type Options struct {
	// Provider is who gives notices. "" is Auto.
	Provider Provider
	// File is a path whose appearance is a notice, whether empty or with {"deadline_seconds": 60, "why": "..."}. Provider
	// File needs it; Auto and the clouds watch it too if it is not "".
	File string
	// Grace is how long a notice gives that names no time. 0 is 30 s.
	Grace time.Duration
	// Log gets what is found and what goes wrong. Nil: nothing is logged.
	Log *slog.Logger

	// Endpoint is the metadata service's base URL, for tests. "" is http://169.254.169.254, the same for every cloud.
	Endpoint string
	// Transport carries the requests, for tests. Nil connects directly, without a proxy.
	Transport http.RoundTripper
}

const (
	defaultGrace    = 30 * time.Second
	defaultEndpoint = "http://169.254.169.254"
	probeTimeout    = 2 * time.Second
	// maxKnown bounds the notices that are remembered so as not to be told twice: honest clouds give a handful.
	maxKnown = 1024
)

// Watch calls seen for each notice until ctx ends, then returns nil. Its only errors are of o.
//
// seen is called once per notice, and again, with the same ID, if the deadline comes nearer (Azure). Calls come one at a time, from
// goroutines that have ended when Watch returns; seen must not block.
func Watch(ctx context.Context, o Options, seen func(Notice)) error {
	w, err := newWatcher(o, seen)
	if err != nil {
		return fmt.Errorf("watch for notices: %w", err)
	}
	defer w.client.CloseIdleConnections()
	var watches sync.WaitGroup
	if o.File != "" && w.o.Provider != None {
		watches.Go(func() { w.watchFile(ctx) })
	}
	if s := w.source(ctx); s != nil {
		s.watch(ctx)
	}
	watches.Wait()
	<-ctx.Done()
	return nil
}

// Acknowledge tells the cloud that the machine has been drained, so that it need not wait for the deadline: one request,
// not repeated. Only Azure listens: for other providers it does nothing. It does nothing either for a Shared notice, as
// an event that is approved proceeds for all the machines that it names, and those may not be ready.
func Acknowledge(ctx context.Context, o Options, n Notice) error {
	if n.Provider != Azure || n.Shared {
		return nil
	}
	o.Provider = Azure
	w, err := newWatcher(o, nil)
	if err == nil {
		defer w.client.CloseIdleConnections()
		err = (&azure{watcher: w}).start(ctx, n.ID)
	}
	if err != nil {
		return fmt.Errorf("acknowledge notice %s: %w", n.ID, err)
	}
	return nil
}

// watcher is what the sources of one Watch share.
type watcher struct {
	o      Options // resolved: nothing is left to default but File
	client *http.Client
	seen   func(Notice)

	mu    sync.Mutex
	known map[string]time.Time // deadline told, by provider and ID
}

func newWatcher(o Options, seen func(Notice)) (*watcher, error) {
	o.Provider = cmp.Or(o.Provider, Auto)
	o.Grace = cmp.Or(o.Grace, defaultGrace)
	o.Endpoint = strings.TrimSuffix(cmp.Or(o.Endpoint, defaultEndpoint), "/")
	switch {
	case !slices.Contains([]Provider{AWS, GCP, Azure, File, None, Auto}, o.Provider):
		return nil, fmt.Errorf("provider=%q: want aws, gcp, azure, file, none or auto", o.Provider)
	case o.Provider == File && o.File == "":
		return nil, fmt.Errorf("provider=file file=%q: want a path", o.File)
	case o.Grace < 0:
		return nil, fmt.Errorf("grace=%s: want 0 or more", o.Grace)
	}
	if u, err := url.Parse(o.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("endpoint=%q: want an http URL", o.Endpoint)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &watcher{o: o, client: newClient(o.Transport), seen: seen, known: make(map[string]time.Time)}, nil
}

// source is one cloud's metadata service.
type source interface {
	// probe succeeds if the service answers as this cloud's does.
	probe(ctx context.Context) error
	// watch delivers notices until ctx ends.
	watch(ctx context.Context)
}

// source is the metadata service to watch; nil if there is none.
func (w *watcher) source(ctx context.Context) source {
	switch w.o.Provider {
	case AWS:
		return &aws{watcher: w}
	case GCP:
		return &gcp{watcher: w}
	case Azure:
		return &azure{watcher: w}
	case Auto:
		return w.detect(ctx)
	}
	return nil
}

// detect asks every cloud's metadata service at once, one time. Nobody's answering is the normal case on a machine that is in no
// cloud.
func (w *watcher) detect(ctx context.Context) source {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// In order of how hard the answer is to mistake for another's: other clouds imitate AWS.
	candidates := []struct {
		provider Provider
		source   source
		err      error
	}{{provider: GCP, source: &gcp{watcher: w}}, {provider: Azure, source: &azure{watcher: w}}, {provider: AWS, source: &aws{watcher: w}}}
	var probes sync.WaitGroup
	for i := range candidates {
		probes.Go(func() { candidates[i].err = candidates[i].source.probe(ctx) })
	}
	probes.Wait()
	for _, c := range candidates {
		if c.err == nil {
			w.o.Log.Info("watching for the cloud's notices", "provider", c.provider)
			return c.source
		}
	}
	w.o.Log.Debug("no cloud's metadata service answers: no notices")
	return nil
}

// deliver tells a notice, unless it has been told with this deadline or an earlier one. Without a deadline it gets the
// grace period.
func (w *watcher) deliver(ctx context.Context, n Notice) {
	if n.Deadline.IsZero() {
		n.Deadline = time.Now().Add(w.o.Grace)
	}
	n.Deadline = n.Deadline.Round(0) // the machine may sleep before it, which stops the monotonic clock
	w.mu.Lock()
	defer w.mu.Unlock()
	key := string(n.Provider) + " " + n.ID
	if told, ok := w.known[key]; ctx.Err() != nil || ok && !n.Deadline.Before(told) {
		return
	}
	if len(w.known) >= maxKnown {
		clear(w.known)
	}
	w.known[key] = n.Deadline
	w.o.Log.Info("notice for this machine", "provider", n.Provider, "kind", n.Kind, "deadline", n.Deadline, "why", n.Why, "id", n.ID)
	w.seen(n)
}

// line is s on one line, without what a terminal or a log would act on, and not long.
func line(s string) string {
	const maxRunes = 200
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, ""), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsGraphic(r)
	}), " ")
	if r := []rune(s); len(r) > maxRunes {
		return string(r[:maxRunes])
	}
	return s
}
