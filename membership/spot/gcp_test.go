package spot

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gcpMock is Compute Engine's metadata server as documented: 403 without Metadata-Flavor: Google, which its answers carry
// too; a request with wait_for_change is held until the value's ETag is not last_etag, or timeout_sec has passed.
type gcpMock struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, at a change
	values  map[string]string
	ignores bool // answers at once
	noETag  bool
	foreign bool // without Metadata-Flavor
}

func newGCPMock(preempted, maintenance string) *gcpMock {
	return &gcpMock{changed: make(chan struct{}), values: map[string]string{"id": "4520031799277581759", gcpPreempted: preempted, gcpMaintenance: maintenance}}
}

func (m *gcpMock) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *gcpMock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, ok := strings.CutPrefix(r.URL.Path, "/computeMetadata/v1/instance/")
	if r.Header.Get("Metadata-Flavor") != "Google" || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	q := r.URL.Query()
	seconds, _ := strconv.Atoi(q.Get("timeout_sec"))
	held := time.NewTimer(time.Duration(seconds) * time.Second)
	defer held.Stop()
	for {
		m.mu.Lock()
		value, changed, foreign, noETag := m.values[key], m.changed, m.foreign, m.noETag
		h := fnv.New64a()
		fmt.Fprint(h, value)
		etag := fmt.Sprintf("%016x", h.Sum64())
		hold := q.Get("wait_for_change") == "true" && q.Get("last_etag") == etag && !m.ignores
		m.mu.Unlock()
		if hold {
			select {
			case <-changed:
				continue
			case <-held.C:
			case <-r.Context().Done():
				return
			}
		}
		if !foreign {
			w.Header().Set("Metadata-Flavor", "Google")
		}
		if !noETag {
			w.Header().Set("ETag", etag)
		}
		if !ok || value == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, value)
		return
	}
}

func TestGCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newGCPMock("FALSE", "NONE")
		o, seen := serve(t, m)
		o.Provider = GCP
		w := watch(t, o)
		w.want(10 * time.Minute)
		// The first is answered at once and the others after a minute each: the server holds them.
		if n := seen.count("GET /computeMetadata/v1/instance/preempted?"); n < 10 || n > 12 {
			t.Errorf("%d requests in 10 minutes, want about 11", n)
		}
		if n := seen.count("GET /computeMetadata/v1/instance/preempted?last_etag=0&timeout_sec=60&wait_for_change=true"); n != 1 {
			t.Errorf("%d requests without an ETag, want 1", n)
		}

		m.set(func() { m.values[gcpMaintenance] = "MIGRATE_ON_HOST_MAINTENANCE" })
		w.want(0, Notice{Provider: GCP, Kind: Freeze, Deadline: time.Now().Add(time.Minute)})
		w.want(5 * time.Minute)
		m.set(func() { m.values[gcpMaintenance] = "NONE" })
		w.want(5 * time.Minute)
		m.set(func() { m.values[gcpMaintenance] = "TERMINATE_ON_HOST_MAINTENANCE" })
		w.want(0, Notice{Provider: GCP, Kind: Maintenance, Deadline: time.Now().Add(time.Minute)})
		m.set(func() { m.values[gcpMaintenance] = "NONE" })
		w.want(time.Minute)
		// The second maintenance has the first one's ETag, and is another notice.
		m.set(func() { m.values[gcpMaintenance] = "TERMINATE_ON_HOST_MAINTENANCE" })
		w.want(0, Notice{Provider: GCP, Kind: Maintenance, Deadline: time.Now().Add(time.Minute)})
		w.want(time.Minute)

		m.set(func() { m.values[gcpPreempted] = "TRUE" })
		w.want(0, Notice{Provider: GCP, Kind: Preempt, Deadline: time.Now().Add(30 * time.Second)})
		w.want(time.Minute)
		if w.log.count("level=WARN") != 0 {
			t.Errorf("logged %s", w.log)
		}
		seen.checkRate(t)
		w.end()
	})
}

// What is true already when Watch begins is a notice.
func TestGCPAlreadyPreempted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := serve(t, newGCPMock("TRUE\n", "NONE\n"))
		o.Provider = GCP
		w := watch(t, o)
		w.want(0, Notice{Provider: GCP, Kind: Preempt, Deadline: at(30 * time.Second)})
		w.want(time.Hour)
		w.end()
	})
}

// A server that holds no request is asked once a second, and tells a value once, with an ETag or without.
func TestGCPServerDoesNotHold(t *testing.T) {
	for _, noETag := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m := newGCPMock("FALSE", "NONE")
			m.ignores, m.noETag = true, noETag
			o, seen := serve(t, m)
			o.Provider = GCP
			w := watch(t, o)
			w.want(59 * time.Second) // looks are at 58 s and 60 s
			m.set(func() { m.values[gcpPreempted] = "TRUE" })
			w.want(gcpInterval, Notice{Provider: GCP, Kind: Preempt, Deadline: time.Now().Add(31 * time.Second)})
			w.want(time.Minute)
			seen.checkRate(t)
			w.end()
		})
	}
}

// Without the header the answer may be anyone's.
func TestGCPForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newGCPMock("TRUE", "TERMINATE_ON_HOST_MAINTENANCE")
		m.foreign = true
		o, _ := serve(t, m)
		o.Provider = GCP
		w := watch(t, o)
		w.want(10 * time.Minute)
		if n := w.log.count("no header Metadata-Flavor: Google"); n != 2 {
			t.Errorf("%d warnings, want one per key:\n%s", n, w.log)
		}
		w.end()
	})
}
