package spot

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// awsMock is EC2's instance metadata service, version 2, as documented: a token from PUT with a time to live of 1 to 21600 s,
// 400 for one without or with X-Forwarded-For, 401 without a token that holds, and 404 for an item that is not there.
type awsMock struct {
	mu        sync.Mutex
	ttl       time.Duration // overrides what is asked for; 0: does not
	noTokens  bool
	tokens    map[string]time.Time // when each expires
	issued    int
	rejected  int
	action    string
	rebalance string
}

func (m *awsMock) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *awsMock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.URL.Path == "/latest/api/token" {
		ttl, err := strconv.Atoi(r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds"))
		switch {
		case r.Method != http.MethodPut:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case err != nil || ttl < 1 || ttl > 21600 || r.Header.Get("X-Forwarded-For") != "" || r.ContentLength > 0:
			w.WriteHeader(http.StatusBadRequest)
		case m.noTokens:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			if m.ttl != 0 {
				ttl = int(m.ttl / time.Second)
			}
			m.issued++
			token := fmt.Sprintf("AQAEAFTNrA4eEGx0AQgJ1arIq_Cc-t4tWt3fB0Hd8RKhXlKc5ccvhg%d==", m.issued)
			if m.tokens == nil {
				m.tokens = make(map[string]time.Time)
			}
			m.tokens[token] = time.Now().Add(time.Duration(ttl) * time.Second)
			w.Header().Set("X-aws-ec2-metadata-token-ttl-seconds", strconv.Itoa(ttl))
			fmt.Fprint(w, token)
		}
		return
	}
	if r.Method != http.MethodGet || !time.Now().Before(m.tokens[r.Header.Get("X-aws-ec2-metadata-token")]) {
		m.rejected++
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	item := map[string]string{"/latest/meta-data/spot/instance-action": m.action, "/latest/meta-data/events/recommendations/rebalance": m.rebalance}[r.URL.Path]
	if item == "" {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `<?xml version="1.0" encoding="iso-8859-1"?><html><body><h1>404 - Not Found</h1></body></html>`)
		return
	}
	fmt.Fprint(w, item)
}

// at is a time of a bubble, which begins at midnight UTC 2000-01-01.
func at(d time.Duration) time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d) }

func TestAWS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &awsMock{}
		o, seen := serve(t, m)
		o.Provider, o.Grace = AWS, 20*time.Second
		w := watch(t, o)
		w.want(62 * time.Second)

		m.set(func() { m.rebalance = `{"noticeTime": "2000-01-01T00:01:02Z"}` })
		w.want(5*time.Second, Notice{Provider: AWS, Kind: Rebalance, Deadline: at(65*time.Second + o.Grace)})
		w.want(time.Minute)

		m.set(func() { m.action = `{"action": "terminate", "time": "2000-01-01T00:04:07Z"}` })
		w.want(5*time.Second, Notice{Provider: AWS, Kind: Preempt, Deadline: at(4*time.Minute + 7*time.Second)})
		w.want(time.Minute)

		m.set(func() { m.action = "" }) // a hiccup, and the same notice: not another
		w.want(10 * time.Second)
		m.set(func() { m.action = `{"action": "terminate", "time": "2000-01-01T00:04:07Z"}` })
		w.want(10 * time.Second)

		m.set(func() { m.action = `{"action": "hibernate", "time": "2000-01-01T00:10:00Z"}` }) // begins at once
		now := time.Now()
		if got := w.after(5 * time.Second); len(got) != 1 || got[0].Kind != Preempt || got[0].Deadline.Sub(now) > 5*time.Second {
			t.Errorf("got %v, want one with a deadline within 5 s of %s", got, now)
		}
		w.want(time.Minute)
		w.end()
		if m.issued != 1 || m.rejected != 0 {
			t.Errorf("%d tokens, %d rejected, want 1 and 0", m.issued, m.rejected)
		}
		if n, want := seen.count("GET "+awsActionPath), int(time.Since(at(0))/awsInterval)+1; n != want {
			t.Errorf("%d looks, want %d", n, want)
		}
		if w.log.count("level=WARN") != 0 {
			t.Errorf("logged %s", w.log)
		}
		seen.checkRate(t)
	})
}

// A token is renewed before it ends, so that no request is rejected.
func TestAWSTokenRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &awsMock{ttl: time.Minute}
		o, seen := serve(t, m)
		o.Provider = AWS
		w := watch(t, o)
		w.want(10 * time.Minute)
		if m.rejected != 0 || m.issued < 10 || m.issued > 13 {
			t.Errorf("%d tokens of a minute in ten, %d rejected, want about 11 and 0", m.issued, m.rejected)
		}
		// While no token is to be had, the old one serves to its end.
		m.set(func() { m.ttl = 0; m.noTokens = true; m.action = `{"action":"stop","time":"2000-01-01T00:20:00Z"}` })
		w.want(5*time.Second, Notice{Provider: AWS, Kind: Preempt, Deadline: at(20 * time.Minute)})
		w.want(2 * time.Minute)
		if n := w.log.count("status 503"); n != 1 {
			t.Errorf("%d warnings, want 1:\n%s", n, w.log)
		}
		w.end()
		seen.checkRate(t)
	})
}

// A token that the service no longer takes, as after hibernation, is replaced in the same look.
func TestAWSTokenRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &awsMock{}
		o, _ := serve(t, m)
		o.Provider = AWS
		w := watch(t, o)
		w.want(time.Minute + time.Second)
		m.set(func() { clear(m.tokens); m.action = `{"action":"stop","time":"2000-01-01T00:03:00Z"}` })
		w.want(5*time.Second, Notice{Provider: AWS, Kind: Preempt, Deadline: at(3 * time.Minute)})
		if m.issued != 2 || m.rejected != 1 || w.log.count("level=WARN") != 0 {
			t.Errorf("%d tokens, %d rejected, want 2 and 1; logged %s", m.issued, m.rejected, w.log)
		}
		w.end()
	})
}

// A service that takes no token of its own does not make us ask in a circle.
func TestAWSEveryTokenRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &awsMock{}
		o, seen := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			m.ServeHTTP(w, r)
		}))
		o.Provider = AWS
		w := watch(t, o)
		w.want(10 * time.Minute)
		if n := w.log.count("status 401"); n != 1 || w.log.count("level=WARN") != 1 {
			t.Errorf("logged %s", w.log)
		}
		w.end()
		seen.checkRate(t)
	})
}

func TestParseInstanceAction(t *testing.T) {
	now := at(time.Hour)
	for _, c := range []struct {
		body     string
		deadline time.Time
		err      string
	}{
		{`{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`, time.Date(2017, 9, 18, 8, 22, 0, 0, time.UTC), ""},
		{`{"action": "stop", "time": "2017-09-18T10:22:00+02:00"}`, time.Date(2017, 9, 18, 8, 22, 0, 0, time.UTC), ""},
		{`{"action": "hibernate", "time": "2017-09-18T08:22:00Z"}`, now, ""},
		{`{"action": "hibernate"}`, now, ""},
		{`{"action": "terminate"}`, time.Time{}, ""}, // the grace period
		{`{"action": "terminate", "time": "tomorrow"}`, time.Time{}, `time="tomorrow": want RFC 3339`},
		{`{"action": "none"}`, time.Time{}, `action="none": want terminate, stop or hibernate`},
		{`null`, time.Time{}, `action="": want terminate, stop or hibernate`},
		{`{}{}`, time.Time{}, "decode: invalid character '{' after top-level value"},
	} {
		n, err := parseInstanceAction([]byte(c.body), now)
		if errText(err) != c.err || !n.Deadline.Equal(c.deadline) {
			t.Errorf("%s: got %+v, %v, want deadline %s, error %q", c.body, n, err, c.deadline, c.err)
		}
	}
}

func TestParseRebalance(t *testing.T) {
	for _, c := range []struct{ body, id, err string }{
		{`{"noticeTime": "2020-10-27T08:22:00Z"}`, "rebalance/2020-10-27T08:22:00Z", ""},
		{`{"noticeTime": ""}`, "", "no noticeTime"},
		{`{"noticeTime": "now"}`, "", `noticeTime="now": want RFC 3339`},
		{`[]`, "", "decode: json: cannot unmarshal array into Go value of type struct { NoticeTime string \"json:\\\"noticeTime\\\"\" }"},
	} {
		n, err := parseRebalance([]byte(c.body), at(0))
		if n.ID != c.id || errText(err) != c.err {
			t.Errorf("%s: got %+v, %v, want ID %q, error %q", c.body, n, err, c.id, c.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
