// Package schedtest holds twins for tests of the sched room and of who drives it: Clock, a clock that moves only when the
// test says so.
package schedtest
