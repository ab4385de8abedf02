package listener

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// MayHear reports whether all programs that listen at a port of this machine's
// loopback run as users who may read a file. Any user's program can wait at the
// port of a node that is down, and must not be told the token.
func MayHear(port uint16, file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	uids, err := listeners("/proc/net", port)
	if err != nil {
		return err
	}
	if len(uids) == 0 {
		return errors.New("no program of this machine listens there")
	}
	for _, uid := range uids {
		if !mayRead(uid, info) {
			return fmt.Errorf("what listens there runs as user %d, who may not read %s", uid, file)
		}
	}
	return nil
}

// listeners are the users of what listens at a port, at a loopback address or at
// all addresses.
func listeners(dir string, port uint16) ([]uint32, error) {
	var uids []uint32
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(dir + "/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		} else if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) < 8 || f[3] != "0A" {
				continue
			}
			at, ok := socketAddr(f[1])
			uid, err := strconv.ParseUint(f[7], 10, 32)
			if a := at.Addr(); ok && err == nil && at.Port() == port && (a.IsLoopback() || a.IsUnspecified()) {
				uids = append(uids, uint32(uid))
			}
		}
	}
	return uids, nil
}

// socketAddr reads the form of /proc/net/tcp: words of 32 bits in the machine's
// order, in hexadecimal, and the port.
func socketAddr(s string) (netip.AddrPort, bool) {
	words, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	p, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// mayRead reports whether a user may read a file, as its mode says.
func mayRead(uid uint32, info os.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return false
	case uid == 0, uid == owner.Uid, info.Mode()&0o004 != 0:
		return true
	case info.Mode()&0o040 == 0:
		return false
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return false
	}
	groups, err := u.GroupIds()
	return err == nil && slices.Contains(groups, strconv.FormatUint(uint64(owner.Gid), 10))
}
