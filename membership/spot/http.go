package spot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// answerTimeout bounds a request that is answered at once, body included.
	answerTimeout = 5 * time.Second
	// maxAnswerBytes bounds an answer: Azure's, the longest, has about 500 bytes an event.
	maxAnswerBytes = 64 << 10
	// maxRetryWait bounds the wait after failures: the shortest notice is 30 s.
	maxRetryWait = 10 * time.Second
)

func newClient(t http.RoundTripper) *http.Client {
	if t == nil {
		t = &http.Transport{
			Proxy:                  nil, // link-local: a proxy would answer for its own machine
			DialContext:            (&net.Dialer{Timeout: probeTimeout}).DialContext,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxAnswerBytes,
		}
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type request struct {
	method  string // "" is GET
	path    string // from the endpoint on
	query   url.Values
	header  map[string]string
	body    string
	timeout time.Duration // 0 is answerTimeout
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask makes one request. Any status is an answer; its caller knows which are good.
func (w *watcher) ask(ctx context.Context, r request) (answer, error) {
	timeout := r.timeout
	if timeout == 0 {
		timeout = answerTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	target := w.o.Endpoint + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, strings.NewReader(r.body))
	if err != nil {
		return answer{}, err
	}
	if r.body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{}, unanswered(ctx, r.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return answer{}, unanswered(ctx, r.path, err)
	}
	if len(body) > maxAnswerBytes {
		return answer{}, &fault{kind: "too long", err: fmt.Errorf("%s: answer of more than %d bytes", r.path, maxAnswerBytes)}
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// fault is a metadata service that does not answer as documented. kind is equal for faults that one log line is enough for:
// their texts differ in ports and times.
type fault struct {
	kind string
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func unanswered(ctx context.Context, path string, err error) error {
	kind := "unreachable"
	if ctx.Err() != nil {
		kind = "timeout"
	}
	return &fault{kind: kind, err: fmt.Errorf("%s: %w", path, err)}
}

// refused is the fault of an answer with another status than asked for.
func refused(path string, a answer) error {
	return &fault{kind: fmt.Sprint("status ", a.status), err: fmt.Errorf("%s: status %d %s", path, a.status, http.StatusText(a.status))}
}

// unreadable is the fault of an answer with a body that is not as documented.
func unreadable(path string, err error) error {
	return &fault{kind: "unreadable", err: fmt.Errorf("%s: %w", path, err)}
}

// poll calls look until ctx ends: one call begins every interval, or when the last one ended if that is later. While look
// fails, waits grow from twice the interval. what names the thing looked at.
func (w *watcher) poll(ctx context.Context, what string, every time.Duration, look func(context.Context) error) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.Multiplier, retry.MaxInterval = min(2*every, maxRetryWait), 1.5, maxRetryWait
	retry.RandomizationFactor = 0.2
	logged := "" // the kind of fault that was logged last; "" when all is well
	for {
		begun := time.Now()
		err := look(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := every - time.Since(begun)
		if err != nil {
			wait = retry.NextBackOff()
			kind := err.Error()
			if f := (*fault)(nil); errors.As(err, &f) {
				kind = f.kind
			}
			if kind != logged {
				w.o.Log.Warn("cannot watch for notices, trying on", "from", what, "error", line(err.Error()))
				logged = kind
			}
		} else {
			retry.Reset()
			if logged != "" {
				w.o.Log.Info("watching for notices again", "from", what)
				logged = ""
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
