#include <stdio.h>

int main(void)
{
	unsigned sum = 0, number; /* too narrow */

	while (scanf("%u", &number) == 1)
		sum += number;
	printf("%u\n", sum);
	return 0;
}
