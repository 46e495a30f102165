package coordinator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	zerofleetv1 "github.com/zerofleet/zerofleet/proto/zerofleet/v1"
)

// watchStream is one Watch. Several send on it, one at a time.
type watchStream struct {
	stream grpc.ServerStreamingServer[zerofleetv1.WatchResponse]

	mu    sync.Mutex
	ended bool // the stream is not to be used any more
}

// send tells the worker something. told is false when it has gone.
func (w *watchStream) send(m *zerofleetv1.WatchResponse) (told bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false, nil
	}
	return true, w.stream.Send(m)
}

// watchStreams are the living Watches, each worker's newest.
type watchStreams struct {
	mu sync.Mutex
	of map[string]*watchStream
}

// enter adds a worker's Watch; leave ends its use.
func (w *watchStreams) enter(id string, stream grpc.ServerStreamingServer[zerofleetv1.WatchResponse]) (self *watchStream, leave func()) {
	self = &watchStream{stream: stream}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = map[string]*watchStream{}
	}
	w.of[id] = self
	return self, func() {
		w.mu.Lock()
		if w.of[id] == self {
			delete(w.of, id)
		}
		w.mu.Unlock()
		self.mu.Lock()
		defer self.mu.Unlock()
		self.ended = true
	}
}

func (w *watchStreams) get(id string) *watchStream {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[id]
}

// Disturb passes a disturbance on to a worker that is connected. It is stored nowhere: who is not connected at that moment never hears of it.
func (s *server) Disturb(_ context.Context, r *zerofleetv1.DisturbRequest) (*zerofleetv1.DisturbResponse, error) {
	d := r.GetDisturbance()
	kind, lasts := "", time.Duration(d.GetForNanos())
	switch d.GetKind() {
	case zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_PARTITION:
		kind = string(Partition)
	case zerofleetv1.DisturbanceKind_DISTURBANCE_KIND_SLOW:
		kind = string(Slow)
	}
	if kind == "" || lasts <= 0 || kind == string(Slow) && !(d.GetRate() > 0) {
		return nil, status.Errorf(codes.InvalidArgument, "disturb worker %s: %s for %s at %g bytes a second: want a partition or slow, for more than 0 s, and slow at more than 0",
			r.GetWorker(), d.GetKind(), lasts, d.GetRate())
	}
	told := false
	if w := s.watchers.get(r.GetWorker()); w != nil {
		var err error
		if told, err = w.send(&zerofleetv1.WatchResponse{Change: &zerofleetv1.WatchResponse_Disturbance{Disturbance: d}}); err != nil {
			return nil, err
		}
	}
	if !told {
		return nil, status.Errorf(codes.NotFound, "worker %s is not connected", r.GetWorker())
	}
	fields := map[string]string{"worker": r.GetWorker(), "kind": kind, "seconds": fmt.Sprintf("%.3f", lasts.Seconds())}
	what := fmt.Sprintf("worker %s is disturbed for %s: %s", r.GetWorker(), lasts, kind)
	if kind == string(Slow) {
		fields["bytes_per_second"] = fmt.Sprintf("%.0f", d.GetRate())
		what += fmt.Sprintf(", %.0f bytes a second", d.GetRate())
	}
	s.record.event("disturbed", what, "asked for", fields)
	return &zerofleetv1.DisturbResponse{}, nil
}
