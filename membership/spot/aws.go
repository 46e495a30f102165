package spot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const (
	// awsInterval is the vendor's advice for both items.
	awsInterval      = 5 * time.Second
	awsTokenPath     = "/latest/api/token"
	awsActionPath    = "/latest/meta-data/spot/instance-action"
	awsRebalancePath = "/latest/meta-data/events/recommendations/rebalance"
	awsTokenHeader   = "X-aws-ec2-metadata-token"
	awsTTLHeader     = "X-aws-ec2-metadata-token-ttl-seconds"
	// awsTokenTTL is the longest the service gives, six hours.
	awsTokenTTL   = 21600 * time.Second
	maxTokenBytes = 4 << 10 // it has 56
)

// aws asks EC2's instance metadata service, version 2 only: the first version may be switched off, and the second is never.
//
// Sources: Amazon EC2 User Guide, "Use IMDSv2", "Spot Instance interruption notices" and "EC2 instance rebalance
// recommendations".
type aws struct {
	*watcher
	token string    // "": none
	renew time.Time // when to ask for another, while the token still holds
}

func (a *aws) probe(ctx context.Context) error { return a.session(ctx) }

func (a *aws) watch(ctx context.Context) {
	a.poll(ctx, "EC2 instance metadata", awsInterval, a.look)
}

func (a *aws) look(ctx context.Context) error {
	for _, item := range []struct {
		path  string
		parse func(body []byte, now time.Time) (Notice, error)
	}{{awsActionPath, parseInstanceAction}, {awsRebalancePath, parseRebalance}} {
		got, err := a.get(ctx, item.path)
		switch {
		case err != nil:
			return err
		case got.status == http.StatusNotFound: // as documented: nothing is planned
			continue
		case got.status != http.StatusOK:
			return refused(item.path, got)
		}
		n, err := item.parse(got.body, time.Now())
		if err != nil {
			return unreadable(item.path, err)
		}
		a.deliver(ctx, n)
	}
	return nil
}

// get reads an item with a token that holds, a new one if the service says 401 to the one at hand.
func (a *aws) get(ctx context.Context, path string) (answer, error) {
	for fresh := false; ; fresh = true {
		if a.token == "" || !time.Now().Before(a.renew) {
			if err := a.session(ctx); err == nil {
				fresh = true
			} else if a.token == "" || ctx.Err() != nil {
				return answer{}, err
			} // else the old one holds for a while still
		}
		got, err := a.ask(ctx, request{path: path, header: map[string]string{awsTokenHeader: a.token}})
		if err != nil || got.status != http.StatusUnauthorized {
			return got, err
		}
		a.token = ""
		if fresh {
			return got, nil
		}
	}
}

// session asks for a token, and keeps the old one if that fails.
func (a *aws) session(ctx context.Context) error {
	begun := time.Now()
	got, err := a.ask(ctx, request{method: http.MethodPut, path: awsTokenPath, header: map[string]string{
		awsTTLHeader: strconv.Itoa(int(awsTokenTTL / time.Second)),
	}})
	if err != nil {
		return err
	}
	if got.status != http.StatusOK {
		return refused(awsTokenPath, got)
	}
	token, err := parseToken(got.body)
	if err != nil {
		return unreadable(awsTokenPath, err)
	}
	ttl := awsTokenTTL
	if s, err := strconv.Atoi(got.header.Get(awsTTLHeader)); err == nil && s > 0 && s < int(awsTokenTTL/time.Second) {
		ttl = time.Duration(s) * time.Second
	}
	a.token, a.renew = token, begun.Add(ttl-ttl/10)
	return nil
}

// parseToken reads a token: opaque, but what a header can carry, and so no page of HTML.
func parseToken(body []byte) (string, error) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || len(body) > maxTokenBytes {
		return "", fmt.Errorf("token of %d bytes: want 1 to %d", len(body), maxTokenBytes)
	}
	for _, c := range body {
		if c <= ' ' || c > '~' || c == '<' || c == '{' || c == '"' {
			return "", fmt.Errorf("token with byte %q", c)
		}
	}
	return string(body), nil
}

// parseInstanceAction reads spot/instance-action: {"action": "terminate", "time": "2017-09-18T08:22:00Z"}, action being
// terminate, stop or hibernate, and time when, about, it will be done, two minutes ahead. Hibernation begins at once.
//
// Source: Amazon EC2 User Guide, "Spot Instance interruption notices".
func parseInstanceAction(body []byte, now time.Time) (Notice, error) {
	var item struct {
		Action string `json:"action"`
		Time   string `json:"time"`
	}
	if err := json.Unmarshal(body, &item); err != nil {
		return Notice{}, fmt.Errorf("decode: %w", err)
	}
	n := Notice{Provider: AWS, Kind: Preempt, Why: "EC2 is going to " + item.Action + " this spot instance", ID: "instance-action/" + item.Action}
	if item.Time != "" {
		at, err := time.Parse(time.RFC3339, item.Time)
		if err != nil {
			return Notice{}, fmt.Errorf("time=%q: want RFC 3339", line(item.Time))
		}
		n.Deadline, n.ID = at.UTC(), n.ID+"/"+at.UTC().Format(time.RFC3339)
	}
	switch item.Action {
	case "terminate", "stop":
	case "hibernate":
		n.Deadline = now
	default:
		return Notice{}, fmt.Errorf("action=%q: want terminate, stop or hibernate", line(item.Action))
	}
	return n, nil
}

// parseRebalance reads events/recommendations/rebalance: {"noticeTime": "2020-10-27T08:22:00Z"}, when it was emitted. It
// names no deadline.
//
// Source: Amazon EC2 User Guide, "EC2 instance rebalance recommendations".
func parseRebalance(body []byte, _ time.Time) (Notice, error) {
	var item struct {
		NoticeTime string `json:"noticeTime"`
	}
	if err := json.Unmarshal(body, &item); err != nil {
		return Notice{}, fmt.Errorf("decode: %w", err)
	}
	if item.NoticeTime == "" {
		return Notice{}, errors.New("no noticeTime")
	}
	at, err := time.Parse(time.RFC3339, item.NoticeTime)
	if err != nil {
		return Notice{}, fmt.Errorf("noticeTime=%q: want RFC 3339", line(item.NoticeTime))
	}
	return Notice{
		Provider: AWS, Kind: Rebalance, ID: "rebalance/" + at.UTC().Format(time.RFC3339),
		Why: "EC2 sees an elevated risk of interruption since " + at.UTC().Format(time.RFC3339),
	}, nil
}
