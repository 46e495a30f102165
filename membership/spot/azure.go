package spot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	// azureInterval is the vendor's advice: a Preempt event leaves 30 s.
	azureInterval   = time.Second
	azureEventsPath = "/metadata/scheduledevents"
	azureNamePath   = "/metadata/instance/compute/name"
	azureEventsAPI  = "2020-07-01"
	azureNameAPI    = "2021-02-01"
	// azureFirstTimeout is for the first request for events, which switches them on: up to two minutes.
	azureFirstTimeout = 130 * time.Second
	maxNameBytes      = 256
	maxEventIDBytes   = 128
)

// azure asks the Azure Instance Metadata Service for its Scheduled Events. Requests carry Metadata: true.
//
// Sources: Azure documentation, "Scheduled Events for Linux VMs in Azure" and "Azure Instance Metadata Service for virtual
// machines".
type azure struct {
	*watcher
	name string // this machine's, as events have it; "": not asked yet
	on   bool   // events have been answered once
}

func (a *azure) probe(ctx context.Context) error { return a.ownName(ctx) }

func (a *azure) watch(ctx context.Context) {
	a.poll(ctx, "Azure Scheduled Events", azureInterval, a.look)
}

func (a *azure) look(ctx context.Context) error {
	if a.name == "" {
		if err := a.ownName(ctx); err != nil {
			return err
		}
	}
	timeout := azureFirstTimeout
	if a.on {
		timeout = answerTimeout
	}
	got, err := a.ask(ctx, azureEvents(http.MethodGet, "", timeout))
	switch {
	case err != nil:
		return err
	case got.status != http.StatusOK:
		return refused(azureEventsPath, got)
	}
	a.on = true
	notices, err := parseScheduledEvents(got.body, a.name, time.Now())
	for _, n := range notices { // what could be read, even if something else could not
		a.deliver(ctx, n)
	}
	if err != nil {
		a.name = "" // asked again: it may have come from whatever answered this, and any word looks like a name
		return unreadable(azureEventsPath, err)
	}
	return nil
}

func (a *azure) ownName(ctx context.Context) error {
	got, err := a.ask(ctx, request{
		path: azureNamePath, query: url.Values{"api-version": {azureNameAPI}, "format": {"text"}}, header: map[string]string{"Metadata": "true"},
	})
	switch {
	case err != nil:
		return err
	case got.status != http.StatusOK:
		return refused(azureNamePath, got)
	}
	name, err := parseName(got.body)
	if err != nil {
		return unreadable(azureNamePath, err)
	}
	a.name = name
	return nil
}

// start approves an event. The service answers 200 to any valid event ID, even one that is approved already.
func (a *azure) start(ctx context.Context, eventID string) error {
	type start struct {
		EventID string `json:"EventId"`
	}
	body, err := json.Marshal(struct{ StartRequests []start }{[]start{{eventID}}})
	if err != nil {
		return err
	}
	got, err := a.ask(ctx, azureEvents(http.MethodPost, string(body), answerTimeout))
	if err == nil && got.status != http.StatusOK {
		err = refused(azureEventsPath, got)
	}
	return err
}

func azureEvents(method, body string, timeout time.Duration) request {
	header := map[string]string{"Metadata": "true"}
	if body != "" {
		header["Content-Type"] = "application/json"
	}
	return request{
		method: method, path: azureEventsPath, query: url.Values{"api-version": {azureEventsAPI}}, header: header, body: body, timeout: timeout,
	}
}

// parseName reads instance/compute/name as text. What no machine can be called is refused, so that a page of HTML is not
// taken for a name, under which no event would ever be found.
//
// Source: Azure documentation, "Naming rules and restrictions for Azure resources", Microsoft.Compute.
func parseName(body []byte) (string, error) {
	name := strings.TrimSpace(string(body))
	if name == "" || len(name) > maxNameBytes {
		return "", fmt.Errorf("machine name of %d bytes: want 1 to %d", len(name), maxNameBytes)
	}
	if i := strings.IndexFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsGraphic(r) || r == unicode.ReplacementChar || strings.ContainsRune(`\/"[]:|<>+=;,?*@&{}`, r)
	}); i >= 0 {
		return "", fmt.Errorf("machine name %q: unexpected character at %d", line(name), i)
	}
	return name, nil
}

// parseScheduledEvents reads the events that name this machine:
//
//	{"DocumentIncarnation": 2, "Events": [{"EventId": "C7061BAC-...", "EventStatus": "Scheduled", "EventType": "Preempt",
//	  "ResourceType": "VirtualMachine", "Resources": ["worker_0"], "NotBefore": "Mon, 19 Sep 2016 18:29:47 GMT",
//	  "Description": "...", "EventSource": "Platform", "DurationInSeconds": -1}]}
//
// NotBefore is blank when the event has started. An event that is not as documented is an error, and does not hide the
// others; an event type that is not documented is passed over.
//
// Source: Azure documentation, "Scheduled Events for Linux VMs in Azure", api-version 2020-07-01.
func parseScheduledEvents(body []byte, machine string, now time.Time) ([]Notice, error) {
	var doc struct {
		DocumentIncarnation *json.Number
		Events              []struct {
			EventID     string `json:"EventId"`
			EventStatus string
			EventType   string
			Resources   []string
			NotBefore   string
			Description string
		}
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if doc.DocumentIncarnation == nil {
		return nil, errors.New("no DocumentIncarnation")
	}
	var notices []Notice
	var faults []error
	for _, e := range doc.Events {
		ours := func(name string) bool { return strings.EqualFold(name, machine) }
		if !slices.ContainsFunc(e.Resources, ours) {
			continue
		}
		n := Notice{Provider: Azure, ID: e.EventID, Why: line(e.Description)}
		n.Shared = slices.ContainsFunc(e.Resources, func(name string) bool { return !ours(name) })
		if e.EventID == "" || len(e.EventID) > maxEventIDBytes || e.EventID != line(e.EventID) {
			faults = append(faults, fmt.Errorf("EventId=%q", line(e.EventID)))
			continue
		}
		switch e.EventType {
		case "Preempt", "Terminate":
			n.Kind = Preempt
		case "Reboot", "Redeploy":
			n.Kind = Maintenance
		case "Freeze":
			n.Kind = Freeze
		default:
			continue
		}
		if n.Why == "" {
			n.Why = "Azure event " + e.EventType
		}
		switch {
		case e.EventStatus == "Started":
			n.Deadline = now
		case e.EventStatus != "Scheduled":
			faults = append(faults, fmt.Errorf("event %s: EventStatus=%q: want Scheduled or Started", e.EventID, line(e.EventStatus)))
			continue
		case e.NotBefore != "":
			at, err := time.Parse(time.RFC1123, e.NotBefore)
			if err != nil {
				faults = append(faults, fmt.Errorf("event %s: NotBefore=%q: want RFC 1123", e.EventID, line(e.NotBefore)))
				continue
			}
			n.Deadline = at.UTC()
		}
		notices = append(notices, n)
	}
	return notices, errors.Join(faults...)
}
