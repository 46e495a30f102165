package spot

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// azureMock is Azure's instance metadata service as documented: 400 without Metadata: true or an api-version, the first answer
// about events after two minutes.
type azureMock struct {
	mu    sync.Mutex
	name  string
	doc   string
	slow  time.Duration // of the first answer about events
	posts []string
}

func (m *azureMock) set(doc string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doc = doc
}

func (m *azureMock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	name, doc, slow := m.name, m.doc, m.slow
	m.mu.Unlock()
	q := r.URL.Query()
	if r.Header.Get("Metadata") != "true" || q.Get("api-version") == "" || r.Header.Get("X-Forwarded-For") != "" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /metadata/instance/compute/name":
		if q.Get("format") != "text" {
			name = fmt.Sprintf("%q", name)
		}
		fmt.Fprint(w, name)
	case "GET /metadata/scheduledevents":
		if slow > 0 {
			select {
			case <-time.After(slow):
			case <-r.Context().Done():
				return
			}
			m.mu.Lock()
			m.slow, doc = 0, m.doc
			m.mu.Unlock()
		}
		fmt.Fprint(w, doc)
	case "POST /metadata/scheduledevents":
		var body struct{ StartRequests []struct{ EventId string } }
		b, _ := io.ReadAll(r.Body)
		if json.Unmarshal(b, &body) != nil || len(body.StartRequests) == 0 || !strings.Contains(doc, body.StartRequests[0].EventId) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		m.mu.Lock()
		m.posts = append(m.posts, r.URL.RequestURI()+" "+string(b))
		m.mu.Unlock()
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func azureDoc(incarnation int, events ...string) string {
	return fmt.Sprintf(`{"DocumentIncarnation": %d, "Events": [%s]}`, incarnation, strings.Join(events, ", "))
}

func azureEvent(id, kind, status, notBefore string, resources ...string) string {
	return fmt.Sprintf(`{"EventId": %q, "EventStatus": %q, "EventType": %q, "ResourceType": "VirtualMachine", "Resources": ["%s"], "NotBefore": %q,
		"Description": "Host server is undergoing maintenance.", "EventSource": "Platform", "DurationInSeconds": -1}`,
		id, status, kind, strings.Join(resources, `", "`), notBefore)
}

func TestAzure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &azureMock{name: "worker_0", doc: azureDoc(1), slow: 2 * time.Minute}
		o, seen := serve(t, m)
		o.Provider = Azure
		w := watch(t, o)
		w.want(3*time.Minute + 500*time.Millisecond)
		if w.log.count("level=WARN") != 0 {
			t.Errorf("the first answer takes two minutes; logged %s", w.log)
		}

		m.set(azureDoc(2, azureEvent("other", "Preempt", "Scheduled", "Sat, 01 Jan 2000 00:04:00 GMT", "worker_1", "worker_00")))
		w.want(time.Minute)

		m.set(azureDoc(3, azureEvent("mine", "Preempt", "Scheduled", "Sat, 01 Jan 2000 00:05:00 GMT", "Worker_0")))
		w.want(time.Second, Notice{
			Provider: Azure, Kind: Preempt, Deadline: at(5 * time.Minute), ID: "mine", Why: "Host server is undergoing maintenance.",
		})
		w.want(10 * time.Second)

		// It begins before its time: that is news.
		m.set(azureDoc(4, azureEvent("mine", "Preempt", "Started", "", "worker_0")))
		now := time.Now()
		if got := w.after(time.Second); len(got) != 1 || got[0].ID != "mine" || got[0].Deadline.Sub(now) > time.Second {
			t.Errorf("got %v, want the same notice with a deadline of about %s", got, now)
		}
		w.want(time.Minute)
		m.set(azureDoc(5))
		w.want(time.Minute)

		begun := time.Now()
		m.set(azureDoc(6,
			azureEvent("a", "Terminate", "Scheduled", "", "worker_0"), // without a time: the grace period
			azureEvent("b", "Reboot", "Scheduled", "Sat, 01 Jan 2000 01:00:00 GMT", "worker_0"),
			azureEvent("c", "Redeploy", "Scheduled", "Sat, 08 Jan 2000 00:00:00 GMT", "worker_0", "worker_1"),
			azureEvent("d", "Freeze", "Scheduled", "Sat, 01 Jan 2000 01:00:00 GMT", "worker_0"),
			azureEvent("e", "Teleport", "Scheduled", "Sat, 01 Jan 2000 01:00:00 GMT", "worker_0"),
		))
		w.want(time.Second,
			Notice{Provider: Azure, Kind: Preempt, ID: "a", Deadline: begun.Add(500*time.Millisecond + defaultGrace)},
			Notice{Provider: Azure, Kind: Maintenance, ID: "b", Deadline: at(time.Hour)},
			Notice{Provider: Azure, Kind: Maintenance, ID: "c", Deadline: at(7 * 24 * time.Hour), Shared: true},
			Notice{Provider: Azure, Kind: Freeze, ID: "d", Deadline: at(time.Hour)})
		w.want(time.Minute)
		seen.checkRate(t)
		w.end()
	})
}

func TestAcknowledge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &azureMock{name: "worker_0", doc: azureDoc(1, azureEvent("f020ba2e-3bc0-4c40-a10b-86575a9eabd5", "Preempt", "Scheduled", "", "worker_0"))}
		o, seen := serve(t, m)
		n := Notice{Provider: Azure, ID: "f020ba2e-3bc0-4c40-a10b-86575a9eabd5"}
		if err := Acknowledge(t.Context(), o, n); err != nil {
			t.Fatal(err)
		}
		want := []string{`/metadata/scheduledevents?api-version=2020-07-01 {"StartRequests":[{"EventId":"f020ba2e-3bc0-4c40-a10b-86575a9eabd5"}]}`}
		if !reflect.DeepEqual(m.posts, want) {
			t.Errorf("got %q, want %q", m.posts, want)
		}
		n.ID = "unknown"
		if err := Acknowledge(t.Context(), o, n); errText(err) != "acknowledge notice unknown: /metadata/scheduledevents: status 400 Bad Request" {
			t.Errorf("got %v", err)
		}
		before := seen.count("")
		for _, n := range []Notice{{Provider: AWS, ID: "x"}, {Provider: GCP, ID: "x"}, {Provider: File, ID: "x"}, {Provider: Azure, ID: "x", Shared: true}} {
			if err := Acknowledge(t.Context(), o, n); err != nil {
				t.Errorf("%+v: %v", n, err)
			}
		}
		if seen.count("") != before {
			t.Error("asked something for a notice that is not acknowledged")
		}
	})
}

func TestParseScheduledEvents(t *testing.T) {
	now := at(0)
	good := azureEvent("good", "Preempt", "Scheduled", "Mon, 11 Apr 2026 22:26:58 GMT", "vm") // the weekday is the vendor's example's, and wrong
	for name, c := range map[string]struct {
		body string
		want []string // kind, ID and deadline
		err  string
	}{
		"none":                {azureDoc(1), nil, ""},
		"one":                 {azureDoc(2, good), []string{"preempt good 2026-04-11T22:26:58Z"}, ""},
		"started":             {azureDoc(2, azureEvent("x", "Reboot", "Started", "", "vm")), []string{"maintenance x 2000-01-01T00:00:00Z"}, ""},
		"no incarnation":      {`{"Events": []}`, nil, "no DocumentIncarnation"},
		"incarnation in text": {`{"DocumentIncarnation": "7", "Events": []}`, nil, ""},
		"a bad one among good": {azureDoc(2, azureEvent("x", "Preempt", "Scheduled", "soon", "vm"), good, azureEvent("y", "Preempt", "Maybe", "", "vm"), azureEvent("", "Preempt", "Started", "", "vm")),
			[]string{"preempt good 2026-04-11T22:26:58Z"},
			"event x: NotBefore=\"soon\": want RFC 1123\nevent y: EventStatus=\"Maybe\": want Scheduled or Started\nEventId=\"\""},
		"another's bad one": {azureDoc(2, azureEvent("x", "Preempt", "Scheduled", "soon", "vm2")), nil, ""},
	} {
		notices, err := parseScheduledEvents([]byte(c.body), "vm", now)
		var got []string
		for _, n := range notices {
			got = append(got, fmt.Sprintf("%s %s %s", n.Kind, n.ID, n.Deadline.Format(time.RFC3339)))
		}
		if !reflect.DeepEqual(got, c.want) || errText(err) != c.err {
			t.Errorf("%s: got %q, %v, want %q, error %q", name, got, err, c.want, c.err)
		}
	}
}

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"worker_0": "worker_0", " vm-1.a\n": "vm-1.a", "": "", "<html></html>": "", `{"error":1}`: "", "two words": "", "a\x00b": "", strings.Repeat("a", 257): "", "a\xffb": "",
	} {
		got, err := parseName([]byte(in))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}
