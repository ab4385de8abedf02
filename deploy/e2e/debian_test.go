package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Exim, OpenSMTPD and Postfix exclude each other as packages. So what is not
// installed is downloaded and unpacked into a cache of the tests' own, and runs
// in a mount namespace where it lies over /usr, with users, configuration and
// spool that only it sees. That needs root, apt and a network; where one of them
// is missing the case is skipped.

// guest is a mail server that runs that way.
type guest struct {
	t    *testing.T
	name string
	dir  string // etc, run and spool lie here, and what the server writes
	addr string
	base string // the unpacked packages
	out  bytes.Buffer
}

// newGuest prepares a server from a Debian package, for an address of its own.
func newGuest(t *testing.T, pkg, host string) *guest {
	t.Helper()
	return newGuestFrom(t, apt{}, pkg, host)
}

func newGuestFrom(t *testing.T, from apt, pkg, host string) *guest {
	t.Helper()
	base, err := unpacked(from, pkg)
	if err != nil {
		t.Skipf("%s: %v", pkg, err)
	}
	dir, err := os.MkdirTemp("", "relay-e2e-"+pkg+"-") // open to the server's users, unlike the test's own
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, sub := range []string{"etc", "run", "spool"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	return &guest{t: t, name: pkg, dir: dir, addr: freeAddr(t, host), base: base}
}

// unpacked returns where the files of a package are, and of those that it needs
// and this system lacks.
func unpacked(from apt, pkg string) (string, error) {
	for _, program := range []string{"apt-get", "dpkg", "unshare", "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", errors.New("this is no Debian-like system with " + program)
		}
	}
	if os.Geteuid() != 0 {
		return "", errors.New("only root can run it beside other mail servers")
	}
	cache := packageCache()
	list, err := from.wanted(pkg)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, strings.NewReplacer("=", "_", ":", "_", "/", "_").Replace(list[len(list)-1]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	return dir, from.download(list, cache, dir)
}

func packageCache() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "relay-e2e")
}

// apt is options of apt-get: of another suite's lists, which are the tests' own, as are the files.
type apt []string

// backports is what Debian has made for its present release of later ones.
func backports() (apt, error) {
	release, _ := os.ReadFile("/etc/os-release")
	m := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)$`).FindSubmatch(release)
	if m == nil || !bytes.Contains(release, []byte("\nID=debian\n")) {
		return nil, errors.New("this is no Debian release with backports")
	}
	dir := filepath.Join(packageCache(), "apt-"+string(m[1]))
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	list := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "+
		"http://deb.debian.org/debian %[1]s main\n"+
		"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %[1]s-backports main\n",
		m[1])
	file := filepath.Join(dir, "sources.list")
	return apt{"-t", string(m[1]) + "-backports", "-o", "Dir::Etc::sourcelist=" + file,
		"-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::lists=" + filepath.Join(dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(dir, "cache")}, os.WriteFile(file, []byte(list), 0o644)
}

// get is apt-get with the options, for so many seconds at most.
func (a apt) get(seconds int, args ...string) *exec.Cmd {
	return exec.Command("timeout", append(append([]string{strconv.Itoa(seconds), "apt-get"}, a...), args...)...)
}

// wanted lists the packages to unpack as name=version, the one asked for last.
func (a apt) wanted(pkg string) ([]string, error) {
	simulate := func() ([]byte, error) {
		return a.get(60, "install", "-s", "--no-install-recommends", pkg).Output()
	}
	out, err := simulate()
	if err != nil { // perhaps the lists have never been fetched
		if err = a.get(60, "-qq", "update").Run(); err == nil {
			out, err = simulate()
		}
	}
	if err != nil {
		return nil, errors.New("apt does not know the package")
	}
	var list []string
	own := pkg
	for _, m := range regexp.MustCompile(`(?m)^Inst (\S+) (?:\[\S+\] )?\((\S+)`).FindAllStringSubmatch(string(out), -1) {
		if one := m[1] + "=" + m[2]; m[1] == pkg {
			own = one
		} else {
			list = append(list, one)
		}
	}
	return append(list, own), nil
}

func (a apt) download(list []string, cache, dir string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	cmd := a.get(120, append([]string{"-qq", "download"}, list...)...)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("it can not be downloaded: %w: %s", err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	root := filepath.Join(work, "root")
	for _, deb := range debs {
		if out, err := exec.Command("dpkg", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("it can not be unpacked: %w: %s", err, out)
		}
	}
	for _, sub := range []string{"usr", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	return os.Rename(root, dir)
}

// etc writes a file that the server finds under /etc.
func (g *guest) etc(name, text string) {
	g.t.Helper()
	path := filepath.Join(g.dir, "etc", name)
	require.NoError(g.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(g.t,
		os.WriteFile(path, []byte(strings.NewReplacer("DIR", g.dir, "ADDR", g.addr).Replace(text)), 0o644))
}

// users adds users, each with a group of the same name and number.
func (g *guest) users(list ...string) {
	g.t.Helper()
	passwd, err := os.ReadFile("/etc/passwd")
	require.NoError(g.t, err)
	group, err := os.ReadFile("/etc/group")
	require.NoError(g.t, err)
	for i, name := range list {
		passwd = fmt.Appendf(passwd, "%s:x:%d:%d::%s:/bin/sh\n", name, guestUser+i, guestUser+i, g.dir)
		group = fmt.Appendf(group, "%s:x:%d:\n", name, guestUser+i)
	}
	g.etc("passwd", string(passwd))
	g.etc("group", string(group))
}

const guestUser = 64100 // the number of the first user of a server

// own makes a directory that belongs to a user's number.
func (g *guest) own(sub string, id int) string {
	g.t.Helper()
	path := filepath.Join(g.dir, sub)
	require.NoError(g.t, os.MkdirAll(path, 0o755))
	require.NoError(g.t, os.Chown(path, id, id))
	return path
}

const inNamespace = `
mount -t overlay overlay -o "lowerdir=$1/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$1/var/lib:/var/lib" /var/lib
mount -t overlay overlay -o "lowerdir=$2/etc:/etc" /etc
mount --bind "$2/run" /run
mount --bind "$2/spool" /var/spool
shift 2
exec "$@"`

func (g *guest) command(args ...string) *exec.Cmd {
	all := []string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-ec", inNamespace,
		"sh", g.base, g.dir}
	return exec.Command("unshare", append(all, args...)...)
}

// start runs the server until the test ends, and returns when it greets.
func (g *guest) start(args ...string) {
	g.t.Helper()
	if out, err := g.command("true").CombinedOutput(); err != nil {
		g.t.Skipf("%s: this system allows no mounts in a namespace: %s", g.name, out)
	}
	cmd := g.command(args...)
	cmd.Stdout, cmd.Stderr = &g.out, &g.out
	cmd.WaitDelay = 10 * time.Second
	require.NoError(g.t, cmd.Start())
	g.t.Cleanup(func() {
		endNamespace(cmd.Process.Pid)
		_ = cmd.Wait()
		if g.t.Failed() {
			g.t.Logf("%s said:\n%s%s", g.name, g.out.String(), g.logs())
		}
	})
	require.Eventually(g.t, func() bool {
		conn, err := net.DialTimeout("tcp", g.addr, time.Second)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}, 20*time.Second, 50*time.Millisecond, "%s does not listen", g.name)
}

// endNamespace kills the child of unshare, the first process of its namespace,
// and with it all that are in there. --kill-child does not reach programs that
// are set-user-ID, as Exim is.
func endNamespace(unshare int) {
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", unshare, unshare))
	for _, child := range strings.Fields(string(list)) {
		if pid, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = syscall.Kill(unshare, syscall.SIGKILL)
}

func (g *guest) logs() string {
	files, _ := filepath.Glob(filepath.Join(g.dir, "log", "*"))
	var b strings.Builder
	for _, f := range files {
		b.WriteString(tail(f, 5000))
	}
	return b.String()
}

// delivered returns the messages in its one mailbox that hold a text.
func (g *guest) delivered(text string) []string {
	return maildir(filepath.Join(g.dir, "mail", "new"), text)
}

// maildir returns the messages in a directory that hold a text.
func maildir(dir, text string) (found []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), text) {
			found = append(found, string(data))
		}
	}
	return found
}
