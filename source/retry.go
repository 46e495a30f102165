package source

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// retryPolicy bounds how long a hub is asked again.
type retryPolicy struct {
	tries   uint          // in all; 0 means 6
	first   time.Duration // before the second try, then twice as long each time; 0 means 500 ms
	stalled time.Duration // without a byte for this long, a download is tried again; 0 means 60 s
}

func (p retryPolicy) orDefault() retryPolicy {
	if p.tries == 0 {
		p.tries = 6
	}
	if p.first == 0 {
		p.first = 500 * time.Millisecond
	}
	if p.stalled == 0 {
		p.stalled = time.Minute
	}
	return p
}

// retry calls try until it succeeds, fails for good or the policy is exhausted.
func retry[T any](ctx context.Context, h hub, try func() (T, error)) (T, error) {
	p := h.retries.orDefault()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.Multiplier, wait.MaxInterval = p.first, 2, 64*p.first
	return backoff.Retry(ctx, try,
		backoff.WithBackOff(wait), backoff.WithMaxTries(p.tries), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, in time.Duration) {
			h.notify(fmt.Sprintf("%v: trying again in %v", err, in.Round(time.Millisecond)))
		}))
}

// permanent marks an error that trying again does not heal. Errors around it are lost, so
// what is tried marks it last.
func permanent(err error) error { return backoff.Permanent(err) }

// later is an error that time may heal, after as many seconds as the server asks for, if it
// does and they are few.
func later(response *http.Response, err error) error {
	if s, bad := strconv.Atoi(response.Header.Get("Retry-After")); bad == nil && s > 0 && s <= 120 {
		return fmt.Errorf("%w: %w", err, backoff.RetryAfter(s))
	}
	return err
}
