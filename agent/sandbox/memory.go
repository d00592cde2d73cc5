package sandbox

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// trimMemory gives back what idle waiting does not need: the heap's free pages, and the pages of the executable that only
// the start touched (they come back from the page cache when they are needed).
func trimMemory() {
	debug.FreeOSMemory()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range cleanMappings(string(smaps)) {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.addr, m.length, unix.MADV_DONTNEED)
	}
}

type mapping struct{ addr, length uintptr }

// cleanMappings lists the read-only, private mappings of files without a page of their own in /proc/PID/smaps: one that
// the dynamic linker relocated has such pages, and would lose them.
func cleanMappings(smaps string) []mapping {
	var (
		out  []mapping
		last mapping
		file bool
	)
	for _, line := range strings.Split(smaps, "\n") {
		fields := strings.Fields(line)
		if m, ok := parseRange(fields); ok {
			last, file = m, len(fields) >= 6 && fields[5][0] == '/' && fields[1][1] == '-' && fields[1][3] == 'p'
			continue
		}
		if file && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" {
			out = append(out, last)
		}
	}
	return out
}

// parseRange reads the first line of a mapping: "start-end perms offset dev inode path".
func parseRange(fields []string) (mapping, bool) {
	if len(fields) < 5 || len(fields[1]) != 4 {
		return mapping{}, false
	}
	from, to, found := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !found || err1 != nil || err2 != nil || end <= start {
		return mapping{}, false
	}
	return mapping{addr: uintptr(start), length: uintptr(end - start)}, true
}
