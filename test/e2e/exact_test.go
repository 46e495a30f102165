package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// What a machine whose products have other bits meets, by sharding.exact.
func TestAMachineOfOtherBits(t *testing.T) {
	t.Parallel()
	const otherBits = "ONEDNN_MAX_CPU_ISA=AVX2" // as a machine without AVX-512
	for _, exact := range []string{"required", "preferred", "off"} {
		t.Run(exact, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			c := p.launchWithGuests(1, 1, append(endless, "--set", "sharding.exact="+exact)...)
			p.awaitStep("runs/job", 2)
			p.run("resize", "runs/job", "2").wants(t, 0)
			guest := p.startAs("worker", []string{otherBits}, "join", "--token-file", p.path("runs/job/join.token"), "--id", "guest")
			switch exact {
			case "required":
				guest.wait().wants(t, 1, "computes other bits than worker 0", "sharding.exact: required admits one kind of machine")
			default:
				p.await("the guest to train", func() bool {
					steps := p.steps("runs/job")
					return len(steps) > 0 && steps[len(steps)-1].WorldSize == 2
				})
			}
			told := p.events("runs/job", "exactness_ended")
			status := p.run("status", "runs/job").wants(t, 0).out
			if exact != "preferred" {
				if len(told) > 0 || strings.Contains(status, "exact until") {
					t.Errorf("the record says that exactness ended: %v\n%s", told, status)
				}
			} else {
				if len(told) != 1 || told[0].Fields["worker"] != "guest" {
					t.Fatalf("events %v: want one of the guest", told)
				}
				// The step before the first that it computed.
				first := 0
				for _, s := range p.steps("runs/job") {
					if s.WorldSize == 2 {
						first = s.Step
						break
					}
				}
				if after := told[0].Fields["step"]; after != fmt.Sprint(first-1) {
					t.Errorf("exactness ended after step %s, and the guest's first was %d", after, first)
				}
				if !strings.Contains(status, "exact until") {
					t.Errorf("the status does not say until when it was exact:\n%s", status)
				}
			}
			p.run("cancel", "runs/job").wants(t, 0)
			c.wait().wants(t, 130)
			if exact != "required" {
				guest.wait().wants(t, 0)
			}
			p.wantsNothingLeft()
		})
	}
}
