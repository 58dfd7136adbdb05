redo-ifchange libs.made simple.made
"${RDVM:-rdvm}" pack --format tar --base simple -o "$3" libs
