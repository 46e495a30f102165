package spot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

const (
	// gcpInterval is the least time between two requests for a key, for a server that does not hold them open. There
	// are two keys: one request a second.
	gcpInterval = 2 * time.Second
	// gcpHold is how long the server may hold a request, and gcpSlack what it may be late.
	gcpHold        = 60 * time.Second
	gcpSlack       = 10 * time.Second
	gcpPath        = "/computeMetadata/v1/instance/"
	gcpPreempted   = "preempted"
	gcpMaintenance = "maintenance-event"
	// gcpNoETag matches no value, so that the server answers at once. It is the one in the vendor's sample.
	gcpNoETag    = "0"
	maxETagBytes = 256
	// From preemption until the machine is off, and from the change of maintenance-event until the maintenance.
	gcpPreemptNotice     = 30 * time.Second
	gcpMaintenanceNotice = 60 * time.Second
)

// gcp asks Compute Engine's metadata server, which holds a request open until the value differs from what last_etag
// stands for. Requests carry Metadata-Flavor: Google, and only an answer that has it too is from that server.
//
// Sources: Compute Engine documentation, "View and query VM metadata", "Query metadata server for maintenance event
// notices" and "Preemptible VM instances".
type gcp struct{ *watcher }

func (g *gcp) probe(ctx context.Context) error {
	_, err := g.get(ctx, "id", nil, 0)
	return err
}

func (g *gcp) watch(ctx context.Context) {
	var keys sync.WaitGroup
	for key, parse := range map[string]func([]byte, time.Time) (gcpValue, error){gcpPreempted: parsePreempted, gcpMaintenance: parseMaintenance} {
		keys.Go(func() { g.watchKey(ctx, key, parse) })
	}
	keys.Wait()
}

func (g *gcp) watchKey(ctx context.Context, key string, parse func([]byte, time.Time) (gcpValue, error)) {
	etag, last, changes := gcpNoETag, "", 0
	g.poll(ctx, "Compute Engine metadata "+key, gcpInterval, func(ctx context.Context) error {
		got, err := g.get(ctx, key, url.Values{
			"wait_for_change": {"true"}, "timeout_sec": {strconv.Itoa(int(gcpHold / time.Second))}, "last_etag": {etag},
		}, gcpHold+gcpSlack)
		if err != nil {
			return err
		}
		v, err := parse(got.body, time.Now())
		if err != nil {
			return unreadable(gcpPath+key, err)
		}
		etag = got.header.Get("ETag")
		if etag == "" || len(etag) > maxETagBytes {
			etag = gcpNoETag
		}
		if v.value == last {
			return nil
		}
		// An ETag is a value's, not an event's: the second maintenance has the first one's again.
		last, changes = v.value, changes+1
		if v.notice.Kind != "" {
			v.notice.ID = fmt.Sprintf("%s/%s/%d", key, v.value, changes)
			g.deliver(ctx, v.notice)
		}
		return nil
	})
}

func (g *gcp) get(ctx context.Context, key string, query url.Values, timeout time.Duration) (answer, error) {
	path := gcpPath + key
	got, err := g.ask(ctx, request{path: path, query: query, header: map[string]string{"Metadata-Flavor": "Google"}, timeout: timeout})
	switch {
	case err != nil:
		return answer{}, err
	case got.status != http.StatusOK:
		return answer{}, refused(path, got)
	case got.header.Get("Metadata-Flavor") != "Google":
		return answer{}, unreadable(path, errors.New("no header Metadata-Flavor: Google: not from the metadata server"))
	}
	return got, nil
}

// gcpValue is what a key holds, and what that means; a notice without a kind is none.
type gcpValue struct {
	value  string
	notice Notice
}

// parsePreempted reads instance/preempted: TRUE once the machine is being preempted, which leaves it 30 s.
//
// Source: Compute Engine documentation, "Preemptible VM instances".
func parsePreempted(body []byte, now time.Time) (gcpValue, error) {
	switch v := string(bytes.TrimSpace(body)); v {
	case "FALSE":
		return gcpValue{value: v}, nil
	case "TRUE":
		return gcpValue{v, Notice{Provider: GCP, Kind: Preempt, Deadline: now.Add(gcpPreemptNotice), Why: "Compute Engine preempts this instance"}}, nil
	default:
		return gcpValue{}, fmt.Errorf("value %q: want TRUE or FALSE", line(v))
	}
}

// parseMaintenance reads instance/maintenance-event, which changes from NONE 60 s before a maintenance (an hour before for
// a machine with GPUs, which cannot be told apart here).
//
// Source: Compute Engine documentation, "Query metadata server for maintenance event notices".
func parseMaintenance(body []byte, now time.Time) (gcpValue, error) {
	n := Notice{Provider: GCP, Deadline: now.Add(gcpMaintenanceNotice)}
	v := string(bytes.TrimSpace(body))
	switch v {
	case "NONE":
		return gcpValue{value: v}, nil
	case "MIGRATE_ON_HOST_MAINTENANCE":
		n.Kind, n.Why = Freeze, "host maintenance: Compute Engine moves this instance, running, to another host"
	case "TERMINATE_ON_HOST_MAINTENANCE":
		n.Kind, n.Why = Maintenance, "host maintenance: Compute Engine stops this instance"
	default:
		return gcpValue{}, fmt.Errorf("value %q: want NONE, MIGRATE_ON_HOST_MAINTENANCE or TERMINATE_ON_HOST_MAINTENANCE", line(v))
	}
	return gcpValue{v, n}, nil
}
