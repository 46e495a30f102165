package place

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Half of the ranks are on each side, neighbours together.
func TestSides(t *testing.T) {
	p := &Place{Name: Veth, names: [2]string{"a", "b"}}
	for ranks, want := range map[int]string{2: "01", 3: "001", 4: "0011", 5: "00011"} {
		got := ""
		for r := range ranks {
			got += fmt.Sprint(p.Side(r, ranks))
		}
		if got != want {
			t.Errorf("%d ranks: sides %s, want %s", ranks, got, want)
		}
	}
	if host := (&Place{Name: Host}); host.Side(3, 4) != 0 || host.Address(3, 4) != "127.0.0.1" {
		t.Error("a rank on the host is elsewhere")
	}
}

func TestLeftOver(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		fmt.Sprintf("zfbench%da", gone.Process.Pid): true, fmt.Sprintf("zfbench%db", gone.Process.Pid): true,
		fmt.Sprintf("zfbench%da", os.Getpid()): false, sideDevice: false, "zfbench": false, "zfbenchab": false, fmt.Sprintf("zf%da", gone.Process.Pid): false,
	} {
		if got := leftOver(name); got != want {
			t.Errorf("leftOver(%s) = %t, want %t", name, got, want)
		}
	}
}
