// Lets nobody else have the CPU any more, PID 1 and the kernel's own threads included: a guest that hangs.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

int main(void)
{
	struct sched_param most = {.sched_priority = 99};
	int limit = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY);
	if (limit < 0 || write(limit, "-1\n", 3) != 3 || write(1, "on\n", 3) != 3)
		return 1;
	sleep(1); // until that has been passed on
	if (sched_setscheduler(0, SCHED_FIFO, &most))
		return 2;
	for (;;)
		;
}
