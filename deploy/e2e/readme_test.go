package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// README's "Operating it" works as it stands: on three machines, which are three
// loopback addresses and three directories here, that begin with nothing.
func TestReadmeOperatingIt(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1 to run the end-to-end tests")
	}
	if os.Getuid() != 0 {
		t.Skip("the ports of mail are for root, as on the machines of the README")
	}
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, text2, found := strings.Cut(string(text), "## Operating it\n\n```\n")
	require.True(t, found)
	block, _, _ := strings.Cut(text2, "```")
	bin, err := binaries()
	require.NoError(t, err)
	dir := t.TempDir()
	machine := 0
	heading := regexp.MustCompile(`10\.0\.0\.(\d)`)
	for line := range strings.SplitSeq(block, "\n") {
		if strings.HasPrefix(line, "#") {
			if m := heading.FindStringSubmatch(line); m != nil {
				machine = int(m[1][0] - '0')
			}
			continue
		}
		if line == "" {
			continue
		}
		onMachine(t, bin, dir, machine, heading.ReplaceAllString(line, "127.0.1.$1"))
	}
}

// onMachine runs one line of the README where its machine is.
func onMachine(t *testing.T, bin, dir string, machine int, line string) {
	t.Helper()
	own := filepath.Join(dir, fmt.Sprint(machine))
	address := fmt.Sprintf("127.0.1.%d", machine)
	line = strings.ReplaceAll(line, "/etc/relay/", own+"/")
	setUp := strings.HasPrefix(line, "relayd init") || strings.HasPrefix(line, "relayd join")
	if setUp {
		line = strings.Replace(line, " --config", " --data-dir "+own+"/data --config", 1)
	}
	background := strings.HasSuffix(line, "&")
	cmd := exec.Command("sh", "-c", "exec "+strings.TrimSuffix(line, "&"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "RELAY_ADDR=http://"+address+":7180")
	if background {
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
		return
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s\n%s", line, out)
	if setUp { // the other machines are this one, too, so each has an address of its own
		file := own + "/relay.toml"
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		placed := strings.NewReplacer("0.0.0.0:", address+":", "127.0.0.1:7180", address+":7180").Replace(string(text))
		require.NoError(t, os.WriteFile(file, []byte(placed), 0o600))
	}
}
