package spot

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// checkNotice holds for whatever a parser makes of any input.
func checkNotice(t *testing.T, n Notice) {
	t.Helper()
	if !slices.Contains([]Kind{Preempt, Rebalance, Maintenance, Freeze}, n.Kind) || n.Provider == "" || n.Why == "" || n.Why != line(n.Why) {
		t.Errorf("notice %+v", n)
	}
}

func FuzzInstanceAction(f *testing.F) {
	f.Add([]byte(`{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`))
	f.Add([]byte(`{"action": "hibernate"}`))
	f.Add([]byte(`{"action": "stop", "time": "9999-12-31T23:59:60+99:99"}`))
	f.Add([]byte("<html>terminate</html>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parseInstanceAction(body, at(0))
		if err != nil {
			return
		}
		checkNotice(t, n)
		if !strings.Contains(string(body), "terminate") && !strings.Contains(string(body), "stop") && !strings.Contains(string(body), "hibernate") &&
			!strings.Contains(string(body), `\u`) {
			t.Errorf("%q: a notice", body)
		}
	})
}

func FuzzRebalance(f *testing.F) {
	f.Add([]byte(`{"noticeTime": "2020-10-27T08:22:00Z"}`))
	f.Add([]byte(`{"noticeTime": "0000-01-01T00:00:00-23:59"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if n, err := parseRebalance(body, at(0)); err == nil {
			checkNotice(t, n)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add([]byte("AQAEAFTNrA4eEGx0AQgJ1arIq_Cc-t4tWt3fB0Hd8RKhXlKc5ccvhg=="))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		token, err := parseToken(body)
		if err == nil && (token == "" || strings.ContainsAny(token, "\r\n <\x00")) {
			t.Errorf("token %q", token)
		}
	})
}

func FuzzGCP(f *testing.F) {
	for _, s := range []string{"TRUE", "FALSE", "NONE\n", "MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, parse := range []func([]byte, time.Time) (gcpValue, error){parsePreempted, parseMaintenance} {
			if v, err := parse(body, at(0)); err == nil && v.notice.Kind != "" {
				checkNotice(t, v.notice)
			}
		}
	})
}

func FuzzScheduledEvents(f *testing.F) {
	f.Add([]byte(azureDoc(2, azureEvent("C7061BAC", "Freeze", "Scheduled", "Mon, 11 Apr 2022 22:26:58 GMT", "vm", "vm2"))))
	f.Add([]byte(azureDoc(3, azureEvent("C7061BAC", "Preempt", "Started", "", "vm"), azureEvent("", "Reboot", "Scheduled", "soon", "vm"))))
	f.Add([]byte(`{"DocumentIncarnation": 1e999, "Events": [{"EventId": "\u0000\ud800", "EventType": "Preempt", "EventStatus": "Started", "Resources": ["VM", null], "Description": "\u202e"}]}`))
	f.Add([]byte(strings.Repeat(`{"Events":[`, 100)))
	f.Fuzz(func(t *testing.T, body []byte) {
		notices, _ := parseScheduledEvents(body, "vm", at(0))
		for _, n := range notices {
			checkNotice(t, n)
			if n.ID == "" || n.ID != line(n.ID) {
				t.Errorf("ID %q", n.ID)
			}
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add([]byte("worker_0"))
	f.Add([]byte("<!DOCTYPE html>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		name, err := parseName(body)
		if err == nil && (name == "" || name != line(name) && len(name) < 200 || strings.ContainsAny(name, "<>{}\" ")) {
			t.Errorf("name %q", name)
		}
	})
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(`{"deadline_seconds": 12.5, "why": "drill"}`))
	f.Add([]byte(`{"deadline_seconds": 1e300}`))
	f.Add([]byte(`{"deadline_seconds": -0.0, "why": null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		deadline, why, err := parseFile(body, at(0))
		if err == nil && (!deadline.IsZero() && (deadline.Before(at(0)) || deadline.After(at(maxFileSeconds*time.Second))) || why != line(why)) {
			t.Errorf("deadline %s, why %q", deadline, why)
		}
	})
}
